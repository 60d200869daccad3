#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "addon.h"
#include "sockets.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

/*
 * SO_PEERPIDFD (Linux 6.5) names the very process that connected. Before it there is pidfd_open of the recorded number, which could hit a
 * later process with the same number: `by_number` says so, and the caller has to look at when that one started.
 */
int peer_of(int fd, struct ucred *peer, int *pidfd, bool *by_number) {
  socklen_t length = sizeof *peer, size = sizeof *pidfd;
  *pidfd = -1;
  *by_number = false;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, peer, &length) != 0) return errno;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, pidfd, &size) == 0) return 0;
  *pidfd = -1; /* it may have been reaped already */
  if (errno != ENOPROTOOPT) return 0;
  *by_number = true;
  *pidfd = (int)syscall(SYS_pidfd_open, peer->pid, 0);
  return 0;
}

/* peerCredentials(fd) */
napi_value native_peer_credentials(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  size_t argc = 1;
  int fd, pidfd;
  bool by_number;
  struct ucred peer;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (argc != 1 || !get_fd(env, argv[0], &fd)) return NULL;
  int error = peer_of(fd, &peer, &pidfd, &by_number);
  if (error != 0) return throw_errno(env, error, "SO_PEERCRED");
  if (pidfd < 0) return throw_errno(env, ESRCH, "SO_PEERPIDFD");
  napi_value result = make_credentials(env, &peer, by_number);
  set_number(env, result, "pidfd", pidfd);
  return result;
}

napi_value make_credentials(napi_env env, const struct ucred *peer, bool by_number) {
  napi_value result, flag;
  napi_create_object(env, &result);
  set_number(env, result, "pid", peer->pid);
  set_number(env, result, "uid", peer->uid);
  set_number(env, result, "gid", peer->gid);
  napi_get_boolean(env, by_number, &flag);
  napi_set_named_property(env, result, "byNumber", flag);
  return result;
}

bool holds_now(int fd, short events) {
  struct pollfd entry = {.fd = fd, .events = events};
  int ready;
  do ready = poll(&entry, 1, 0);
  while (ready < 0 && errno == EINTR);
  return ready != 0;
}

/* isAlive(pidfd) */
napi_value native_is_alive(napi_env env, napi_callback_info info) {
  napi_value argv[1], result;
  size_t argc = 1;
  int fd;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (argc != 1 || !get_fd(env, argv[0], &fd)) return NULL;
  napi_get_boolean(env, !holds_now(fd, POLLIN), &result);
  return result;
}

/* bootTime(): milliseconds since boot, time in suspend included */
napi_value native_boot_time(napi_env env, napi_callback_info info) {
  (void)info;
  struct timespec now;
  napi_value result;
  if (clock_gettime(CLOCK_BOOTTIME, &now) != 0) return throw_errno(env, errno, "CLOCK_BOOTTIME");
  napi_create_double(env, (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6, &result);
  return result;
}

/* closeFd(fd) */
napi_value native_close_fd(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  size_t argc = 1;
  int fd;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (argc != 1 || !get_fd(env, argv[0], &fd)) return NULL;
  return close(fd) == 0 ? NULL : throw_errno(env, errno, "close");
}

static napi_value fd_pair(napi_env env, const int pair[2]) {
  napi_value result, element;
  napi_create_array_with_length(env, 2, &result);
  for (uint32_t i = 0; i < 2; i++) {
    napi_create_int32(env, pair[i], &element);
    napi_set_element(env, result, i, element);
  }
  return result;
}

/* pipe(): its read end, then its write end, closed on exec */
napi_value native_pipe(napi_env env, napi_callback_info info) {
  int pair[2];
  (void)info;
  if (pipe2(pair, O_CLOEXEC) != 0) return throw_errno(env, errno, "pipe");
  return fd_pair(env, pair);
}

/* socketPair("stream" | "seqpacket" as 1 | 5): two connected AF_UNIX sockets, closed on exec */
napi_value native_socket_pair(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  size_t argc = 1;
  int32_t type = 0;
  int pair[2];
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (argc != 1 || napi_get_value_int32(env, argv[0], &type) != napi_ok || (type != SOCK_STREAM && type != SOCK_SEQPACKET)) {
    napi_throw_type_error(env, NULL, "type: expected 1 (stream) or 5 (seqpacket)");
    return NULL;
  }
  if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair) != 0) return throw_errno(env, errno, "socketpair");
  return fd_pair(env, pair);
}

/* setNonDumpable(): no core dump, and no other process of the same user reads this one's memory */
napi_value native_set_non_dumpable(napi_env env, napi_callback_info info) {
  (void)info;
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return throw_errno(env, errno, "PR_SET_DUMPABLE");
  return NULL;
}
