#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "addon.h"

enum { MAX_FDS = 16, MAX_MESSAGE = 1 << 20 };

/* One job of a worker thread: send `request` unless it is NULL, then take one message. */
struct job {
  napi_async_work work;
  napi_deferred deferred;
  int fd, error, timeout_ms;
  const char *step;
  uint8_t *request, *reply;
  size_t request_length, reply_capacity, reply_length, send_count, receive_count;
  int send_fds[MAX_FDS], receive_fds[MAX_FDS];
};

union control {
  struct cmsghdr header;
  uint8_t bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
};

static int send_request(const struct job *job) {
  union control control = {0};
  struct iovec part = {.iov_base = job->request, .iov_len = job->request_length};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  size_t size = job->send_count * sizeof(int);
  if (size > 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(size);
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(rights), job->send_fds, size);
  }
  ssize_t sent;
  do sent = sendmsg(job->fd, &message, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  if (sent < 0) return errno;
  return (size_t)sent == job->request_length ? 0 : EMSGSIZE;
}

static long long now_ms(void) {
  struct timespec now;
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Works for descriptors that Node made non-blocking as well. */
static int wait_readable(const struct job *job) {
  long long end = now_ms() + job->timeout_ms;
  for (;;) {
    long long left = end - now_ms();
    struct pollfd entry = {.fd = job->fd, .events = POLLIN};
    int ready = poll(&entry, 1, left < 0 ? 0 : (int)left);
    if (ready > 0) return 0;
    if (ready == 0) return ETIMEDOUT;
    if (errno != EINTR) return errno;
  }
}

/* Keeps every descriptor that came, so that none leaks even from a message that is refused. */
static void take_descriptors(struct job *job, struct msghdr *message) {
  for (struct cmsghdr *at = CMSG_FIRSTHDR(message); at != NULL; at = CMSG_NXTHDR(message, at)) {
    if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (at->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count && job->receive_count < MAX_FDS; i++) {
      memcpy(&job->receive_fds[job->receive_count++], CMSG_DATA(at) + i * sizeof(int), sizeof(int));
    }
  }
}

static int receive_message(struct job *job) {
  union control control = {0};
  struct iovec part = {.iov_base = job->reply, .iov_len = job->reply_capacity};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  ssize_t got;
  do { /* what poll saw may be gone again: another call on the same socket has taken it */
    int error = wait_readable(job);
    if (error != 0) return error;
    got = recvmsg(job->fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (got < 0 && (errno == EINTR || errno == EAGAIN));
  if (got < 0) return errno;
  take_descriptors(job, &message);
  job->reply_length = (size_t)got;
  return (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 ? EMSGSIZE : 0;
}

static void run(napi_env env, void *data) {
  struct job *job = data;
  (void)env;
  job->step = "send";
  job->error = job->request == NULL ? 0 : send_request(job);
  if (job->error != 0) return;
  job->step = "receive";
  job->error = receive_message(job);
}

static napi_value make_result(napi_env env, const struct job *job) {
  napi_value result, buffer, bytes, fds;
  void *memory;
  napi_create_object(env, &result);
  napi_create_arraybuffer(env, job->reply_length, &memory, &buffer);
  if (job->reply_length > 0) memcpy(memory, job->reply, job->reply_length);
  napi_create_typedarray(env, napi_uint8_array, job->reply_length, buffer, 0, &bytes);
  napi_create_array_with_length(env, job->receive_count, &fds);
  for (size_t i = 0; i < job->receive_count; i++) {
    napi_value fd;
    napi_create_int32(env, job->receive_fds[i], &fd);
    napi_set_element(env, fds, (uint32_t)i, fd);
  }
  napi_set_named_property(env, result, "bytes", bytes);
  napi_set_named_property(env, result, "fds", fds);
  return result;
}

static void free_job(struct job *job) {
  free(job->request);
  free(job->reply);
  free(job);
}

static void complete(napi_env env, napi_status status, void *data) {
  struct job *job = data;
  if (status != napi_ok && job->error == 0) job->error = ECANCELED;
  if (job->error == 0) {
    napi_resolve_deferred(env, job->deferred, make_result(env, job));
  } else {
    for (size_t i = 0; i < job->receive_count; i++) (void)close(job->receive_fds[i]);
    napi_reject_deferred(env, job->deferred, make_error(env, job->error, job->step));
  }
  napi_delete_async_work(env, job->work);
  free_job(job);
}

static napi_value start(napi_env env, struct job *job) {
  napi_value promise, name;
  napi_create_string_utf8(env, "ironclaw message", NAPI_AUTO_LENGTH, &name);
  if (napi_create_promise(env, &job->deferred, &promise) != napi_ok ||
      napi_create_async_work(env, NULL, name, run, complete, job, &job->work) != napi_ok ||
      napi_queue_async_work(env, job->work) != napi_ok) {
    free_job(job);
    return throw_errno(env, ENOMEM, "start");
  }
  return promise;
}

/* A job with a reply buffer of `value` bytes and `timeout` milliseconds, or NULL and a pending error. */
static struct job *new_job(napi_env env, int fd, napi_value value, napi_value timeout) {
  uint32_t capacity = 0;
  int32_t milliseconds = 0;
  if (napi_get_value_uint32(env, value, &capacity) != napi_ok || capacity == 0 || capacity > MAX_MESSAGE ||
      napi_get_value_int32(env, timeout, &milliseconds) != napi_ok || milliseconds <= 0) {
    napi_throw_type_error(env, NULL, "expected a size from 1 to 1048576 and a timeout in milliseconds");
    return NULL;
  }
  struct job *job = calloc(1, sizeof *job);
  uint8_t *reply = malloc(capacity);
  if (job == NULL || reply == NULL) {
    free(job);
    free(reply);
    throw_errno(env, ENOMEM, "message");
    return NULL;
  }
  job->fd = fd;
  job->reply = reply;
  job->reply_capacity = capacity;
  job->timeout_ms = milliseconds;
  return job;
}

static bool copy_request(napi_env env, napi_value value, struct job *job) {
  napi_typedarray_type type;
  void *bytes;
  bool is_typedarray = false;
  napi_is_typedarray(env, value, &is_typedarray);
  if (!is_typedarray || napi_get_typedarray_info(env, value, &type, &job->request_length, &bytes, NULL, NULL) != napi_ok ||
      type != napi_uint8_array || job->request_length == 0 || job->request_length > MAX_MESSAGE) {
    napi_throw_type_error(env, NULL, "request: expected a Uint8Array of 1 to 1048576 bytes");
    return false;
  }
  job->request = malloc(job->request_length);
  if (job->request == NULL) return throw_errno(env, ENOMEM, "request") != NULL;
  memcpy(job->request, bytes, job->request_length);
  return true;
}

static bool copy_fds(napi_env env, napi_value value, struct job *job) {
  uint32_t count = 0;
  if (napi_get_array_length(env, value, &count) != napi_ok || count > MAX_FDS) {
    napi_throw_type_error(env, NULL, "sendFds: expected an array of at most 16");
    return false;
  }
  for (uint32_t i = 0; i < count; i++) {
    napi_value element;
    if (napi_get_element(env, value, i, &element) != napi_ok || !get_fd(env, element, &job->send_fds[i])) return false;
  }
  job->send_count = count;
  return true;
}

/* call(fd, request, sendFds, maxReply, timeoutMs) */
napi_value native_call(napi_env env, napi_callback_info info) {
  napi_value argv[5];
  size_t argc = 5;
  int fd;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (argc != 5 || !get_fd(env, argv[0], &fd)) return NULL;
  struct job *job = new_job(env, fd, argv[3], argv[4]);
  if (job == NULL) return NULL;
  if (!copy_request(env, argv[1], job) || !copy_fds(env, argv[2], job)) {
    free_job(job);
    return NULL;
  }
  return start(env, job);
}

/* receiveWithFds(fd, max, timeoutMs) */
napi_value native_receive_with_fds(napi_env env, napi_callback_info info) {
  napi_value argv[3];
  size_t argc = 3;
  int fd;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (argc != 3 || !get_fd(env, argv[0], &fd)) return NULL;
  struct job *job = new_job(env, fd, argv[1], argv[2]);
  return job == NULL ? NULL : start(env, job);
}
