#include <errno.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "addon.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

/*
 * A pidfd of the process that connected. SO_PEERPIDFD (Linux 6.5) names that very process; before it, pidfd_open of the
 * recorded number could hit a later process with the same number, so the caller must compare what it learns with the uid.
 */
static int peer_pidfd(int fd, pid_t pid) {
  int pidfd = -1;
  socklen_t length = sizeof pidfd;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &length) == 0) return pidfd;
  if (errno != ENOPROTOOPT) return -1;
  return (int)syscall(SYS_pidfd_open, pid, 0);
}

/* peerCredentials(fd) */
napi_value native_peer_credentials(napi_env env, napi_callback_info info) {
  napi_value argv[1], result;
  size_t argc = 1;
  int fd;
  struct ucred peer;
  socklen_t length = sizeof peer;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (argc != 1 || !get_fd(env, argv[0], &fd)) return NULL;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return throw_errno(env, errno, "SO_PEERCRED");
  int pidfd = peer_pidfd(fd, peer.pid);
  if (pidfd < 0) return throw_errno(env, errno, "SO_PEERPIDFD");
  napi_create_object(env, &result);
  set_number(env, result, "pid", peer.pid);
  set_number(env, result, "uid", peer.uid);
  set_number(env, result, "gid", peer.gid);
  set_number(env, result, "pidfd", pidfd);
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
