#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

#include "addon.h"
#include "sockets.h"

enum { BACKLOG = 511, ACCEPTS = 16 };

/* Who accepts at one socket. */
struct listener {
  napi_env env;
  napi_ref on_connection;
  napi_async_cleanup_hook_handle cleanup;
  uv_poll_t poll;
  int fd;
  int spare;        /* given up for a moment when there is no descriptor left, so that a connection can be refused */
  unsigned holders; /* the JavaScript object and the uv handle */
};

static const napi_type_tag LISTENER = {0x2b7ce4d1a04f4c86, 0x9d10f6a3582be741};

bool has_tag(napi_env env, napi_value value, const napi_type_tag *tag, void **data) {
  napi_valuetype type;
  bool same = false;
  if (napi_typeof(env, value, &type) != napi_ok || type != napi_external) return false;
  return napi_check_object_type_tag(env, value, tag, &same) == napi_ok && same && napi_get_value_external(env, value, data) == napi_ok;
}

void call_back(napi_env env, napi_ref function, size_t argc, const napi_value *argv) {
  napi_value global, callee, thrown;
  if (napi_get_global(env, &global) != napi_ok || napi_get_reference_value(env, function, &callee) != napi_ok) return;
  if (napi_make_callback(env, NULL, global, callee, argc, argv, NULL) != napi_pending_exception) return;
  if (napi_get_and_clear_last_exception(env, &thrown) == napi_ok) (void)napi_fatal_exception(env, thrown);
}

static void release(struct listener *listener) {
  if (--listener->holders == 0) free(listener);
}

static void forget(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  release(data);
}

static void handle_closed(uv_handle_t *handle) {
  struct listener *listener = handle->data;
  (void)napi_remove_async_cleanup_hook(listener->cleanup);
  release(listener);
}

static void close_listener(struct listener *listener) {
  if (listener->fd < 0) return;
  uv_close((uv_handle_t *)&listener->poll, handle_closed);
  (void)napi_delete_reference(listener->env, listener->on_connection);
  (void)close(listener->fd);
  if (listener->spare >= 0) (void)close(listener->spare);
  listener->fd = listener->spare = -1;
}

static void environment_ends(napi_async_cleanup_hook_handle handle, void *data) {
  (void)handle;
  close_listener(data);
}

static int open_spare(void) { return open("/dev/null", O_RDONLY | O_CLOEXEC); }

/* A connection that cannot be accepted would be reported as ready for ever: it is taken and closed. */
static void refuse_one(struct listener *listener) {
  if (listener->spare >= 0) (void)close(listener->spare);
  int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
  if (fd >= 0) (void)close(fd);
  listener->spare = open_spare();
}

static void hand_over(struct listener *listener, int fd) {
  napi_env env = listener->env;
  napi_handle_scope scope;
  struct ucred peer;
  int pidfd = -1, on = 1;
  bool by_number;
  if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0 || peer_of(fd, &peer, &pidfd, &by_number) != 0 ||
      napi_open_handle_scope(env, &scope) != napi_ok) {
    (void)close(fd);
    if (pidfd >= 0) (void)close(pidfd);
    return;
  }
  napi_value thrown, argv[2] = {make_stream(env, fd, pidfd, &peer), NULL};
  if (argv[0] == NULL) {
    (void)napi_get_and_clear_last_exception(env, &thrown); /* nobody called this who could catch it */
    (void)close(fd);
    if (pidfd >= 0) (void)close(pidfd);
  } else {
    argv[1] = make_credentials(env, &peer, by_number);
    call_back(env, listener->on_connection, 2, argv);
  }
  napi_close_handle_scope(env, scope);
}

static void accept_some(uv_poll_t *handle, int status, int events) {
  struct listener *listener = handle->data;
  (void)status;
  (void)events;
  for (int i = 0; i < ACCEPTS && listener->fd >= 0; i++) {
    int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0 && (errno == EMFILE || errno == ENFILE)) refuse_one(listener);
    if (fd < 0) return;
    hand_over(listener, fd);
  }
}

/* listen(path): a new socket at a path where nothing is; everybody may connect */
napi_value native_listen(napi_env env, napi_callback_info info) {
  napi_value argv[1], result;
  size_t argc = 1, length = 0;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (argc != 1 || napi_get_value_string_utf8(env, argv[0], NULL, 0, &length) != napi_ok || length == 0 ||
      length >= sizeof address.sun_path) {
    napi_throw_type_error(env, NULL, "path: expected 1 to 107 bytes");
    return NULL;
  }
  napi_get_value_string_utf8(env, argv[0], address.sun_path, sizeof address.sun_path, &length);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return throw_errno(env, errno, "socket");
  bool bound = bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
  /* Nobody connects before it listens, so nobody is turned away by the mode that it is made with. */
  if (!bound || chmod(address.sun_path, 0666) != 0 || listen(fd, BACKLOG) != 0) {
    int error = errno;
    if (bound) (void)unlink(address.sun_path);
    (void)close(fd);
    return throw_errno(env, error, bound ? "listen" : "bind");
  }
  napi_create_int32(env, fd, &result);
  return result;
}

static bool has_option(int fd, int option, int expected) {
  int value = -1;
  socklen_t length = sizeof value;
  return getsockopt(fd, SOL_SOCKET, option, &value, &length) == 0 && value == expected;
}

/* SO_PASSCRED before anything is accepted: an accepted socket has it from its listener. */
static int prepare(int fd) {
  int on = 1;
  if (!has_option(fd, SO_DOMAIN, AF_UNIX) || !has_option(fd, SO_TYPE, SOCK_STREAM) || !has_option(fd, SO_ACCEPTCONN, 1)) return EINVAL;
  if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0) return errno;
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) return errno;
  return 0;
}

/* accept(fd, onConnection): takes over a Unix stream socket that listens, unless it throws */
napi_value native_accept(napi_env env, napi_callback_info info) {
  napi_value argv[2], object;
  size_t argc = 2;
  uv_loop_t *loop;
  int fd;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (argc != 2 || !get_fd(env, argv[0], &fd)) return NULL;
  int error = prepare(fd);
  if (error != 0) return throw_errno(env, error, "a Unix stream socket that listens");
  struct listener *listener = calloc(1, sizeof *listener);
  if (listener == NULL) return throw_errno(env, ENOMEM, "listener");
  *listener = (struct listener){.env = env, .fd = -1, .spare = -1, .holders = 1};
  if (napi_create_external(env, listener, forget, NULL, &object) != napi_ok) {
    free(listener);
    return throw_errno(env, ENOMEM, "listener");
  }
  if (napi_type_tag_object(env, object, &LISTENER) != napi_ok || !hub_open(env) || napi_get_uv_event_loop(env, &loop) != napi_ok ||
      uv_poll_init(loop, &listener->poll, fd) != 0)
    return throw_errno(env, EIO, "listener");
  listener->poll.data = listener;
  listener->holders += 1;
  listener->fd = fd;
  listener->spare = open_spare();
  (void)napi_create_reference(env, argv[1], 1, &listener->on_connection);
  (void)napi_add_async_cleanup_hook(env, environment_ends, listener, &listener->cleanup);
  (void)uv_poll_start(&listener->poll, UV_READABLE, accept_some);
  return object;
}

/* stop(listener): closes the socket; once more is no error */
napi_value native_stop(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  size_t argc = 1;
  void *data;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (argc == 1 && has_tag(env, argv[0], &LISTENER, &data)) close_listener(data);
  return NULL;
}
