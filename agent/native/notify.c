#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "addon.h"

/*
 * The supervisor of a shim's filter (seccomp_unotify(2)). A thread of its own answers every attempt with EPERM at once,
 * however busy JavaScript is; the first ones are handed over, all are counted. Never "continue": arguments in memory
 * could change after a look at them.
 */

enum { MAX_NR = 512, MAX_EVENTS = 64 };

struct watch {
  int listener;
  napi_threadsafe_function report;
  struct seccomp_notif_sizes sizes;
  atomic_uint holders; /* the thread and the JavaScript object */
  atomic_ullong counts[MAX_NR + 1]; /* the last one for every higher number */
  unsigned events;
  bool reporting;
};

struct event { int nr; uint32_t tid; uint64_t args[6]; unsigned long long count; };

static void release(struct watch *watch) {
  if (atomic_fetch_sub(&watch->holders, 1) == 1) free(watch);
}

static void hand_over(napi_env env, napi_value callback, void *context, void *data) {
  struct event *event = data;
  (void)context;
  if (env != NULL) {
    napi_value object, args, undefined;
    napi_create_object(env, &object);
    napi_create_array_with_length(env, 6, &args);
    for (uint32_t i = 0; i < 6; i++) {
      napi_value value;
      napi_create_bigint_uint64(env, event->args[i], &value);
      napi_set_element(env, args, i, value);
    }
    set_number(env, object, "nr", event->nr);
    set_number(env, object, "tid", event->tid);
    set_number(env, object, "count", (double)event->count);
    napi_set_named_property(env, object, "args", args);
    napi_get_undefined(env, &undefined);
    napi_call_function(env, undefined, callback, 1, &object, NULL);
  }
  free(event);
}

static void report(struct watch *watch, const struct seccomp_notif *attempt) {
  int slot = attempt->data.nr < 0 || attempt->data.nr >= MAX_NR ? MAX_NR : attempt->data.nr;
  unsigned long long count = atomic_fetch_add(&watch->counts[slot], 1) + 1;
  if (!watch->reporting || watch->events >= MAX_EVENTS) return;
  struct event *event = calloc(1, sizeof *event);
  if (event == NULL) return;
  *event = (struct event){.nr = attempt->data.nr, .tid = attempt->pid, .count = count};
  memcpy(event->args, attempt->data.args, sizeof event->args);
  watch->events++;
  if (napi_call_threadsafe_function(watch->report, event, napi_tsfn_nonblocking) != napi_ok) {
    free(event);
    watch->reporting = false; /* the environment is closing: the function may not be used again */
  }
}

/* False when the listener is of no more use. ENOENT: the caller died between the attempt and the answer. */
static bool answer_one(struct watch *watch, struct seccomp_notif *attempt, struct seccomp_notif_resp *answer) {
  memset(attempt, 0, watch->sizes.seccomp_notif);
  if (ioctl(watch->listener, SECCOMP_IOCTL_NOTIF_RECV, attempt) != 0) return errno == EINTR || errno == ENOENT;
  memset(answer, 0, watch->sizes.seccomp_notif_resp);
  answer->id = attempt->id;
  answer->error = -EPERM;
  /* Before the answer: whoever hears of what the caller did next finds this attempt counted. */
  report(watch, attempt);
  return ioctl(watch->listener, SECCOMP_IOCTL_NOTIF_SEND, answer) == 0 || errno == ENOENT;
}

static void *answer_all(void *data) {
  struct watch *watch = data;
  struct seccomp_notif *attempt = malloc(watch->sizes.seccomp_notif);
  struct seccomp_notif_resp *answer = malloc(watch->sizes.seccomp_notif_resp);
  bool going = attempt != NULL && answer != NULL;
  while (going) {
    struct pollfd entry = {.fd = watch->listener, .events = POLLIN};
    int ready = poll(&entry, 1, -1);
    if (ready < 0) going = errno == EINTR;
    else if ((entry.revents & POLLIN) != 0) going = answer_one(watch, attempt, answer);
    else going = false; /* POLLHUP: nobody is left under the filter */
  }
  free(attempt);
  free(answer);
  /* Without a listener the kernel denies with ENOSYS. */
  (void)close(watch->listener);
  if (watch->reporting) napi_release_threadsafe_function(watch->report, napi_tsfn_release);
  release(watch);
  return NULL;
}

static napi_value read_counts(napi_env env, napi_callback_info info) {
  napi_value result;
  void *data;
  napi_get_cb_info(env, info, NULL, NULL, NULL, &data);
  struct watch *watch = data;
  napi_create_object(env, &result);
  for (uint32_t nr = 0; nr <= MAX_NR; nr++) {
    unsigned long long count = atomic_load(&watch->counts[nr]);
    napi_value value;
    if (count == 0) continue;
    napi_create_double(env, (double)count, &value);
    napi_set_element(env, result, nr, value);
  }
  return result;
}

static void forget(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  release(data);
}

static int start_thread(struct watch *watch) {
  pthread_t thread;
  sigset_t all, before;
  (void)sigfillset(&all);
  (void)pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(&thread, NULL, answer_all, watch);
  (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
  return error != 0 ? error : pthread_detach(thread);
}

static napi_value make_handle(napi_env env, struct watch *watch) {
  napi_value result, counts;
  napi_create_object(env, &result);
  napi_create_function(env, "counts", NAPI_AUTO_LENGTH, read_counts, watch, &counts);
  napi_add_finalizer(env, counts, watch, forget, NULL, NULL);
  napi_set_named_property(env, result, "counts", counts);
  return result;
}

/* watchNotifications(listenerFd, onEvent): takes the descriptor over */
napi_value native_watch_notifications(napi_env env, napi_callback_info info) {
  napi_value argv[2], name;
  size_t argc = 2;
  int fd;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (argc != 2 || !get_fd(env, argv[0], &fd)) return NULL;
  struct watch *watch = calloc(1, sizeof *watch);
  if (watch == NULL) return throw_errno(env, ENOMEM, "watch");
  watch->listener = fd;
  watch->reporting = true;
  atomic_store(&watch->holders, 2);
  napi_create_string_utf8(env, "ironclaw notifications", NAPI_AUTO_LENGTH, &name);
  if (syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &watch->sizes) != 0 ||
      watch->sizes.seccomp_notif < sizeof(struct seccomp_notif) ||
      watch->sizes.seccomp_notif_resp < sizeof(struct seccomp_notif_resp)) {
    free(watch);
    return throw_errno(env, ENOSYS, "SECCOMP_GET_NOTIF_SIZES");
  }
  if (napi_create_threadsafe_function(env, argv[1], NULL, name, 0, 1, NULL, NULL, NULL, hand_over, &watch->report) != napi_ok ||
      napi_unref_threadsafe_function(env, watch->report) != napi_ok) {
    free(watch);
    return throw_errno(env, ENOMEM, "threadsafe function");
  }
  int error = start_thread(watch);
  if (error != 0) {
    napi_release_threadsafe_function(watch->report, napi_tsfn_abort);
    free(watch);
    return throw_errno(env, error, "thread");
  }
  return make_handle(env, watch);
}
