#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "addon.h"
#include "sockets.h"

/* What onEvent is called with. */
enum { READABLE = 1, WRITABLE = 2, DIED = 4 };

static const napi_type_tag STREAM = {0x6c1d3f4e9a524b07, 0x8f2be05d7713a9c4};

static void close_fds(struct stream *stream) {
  if (stream->fd >= 0) (void)close(stream->fd);
  if (stream->pidfd >= 0) (void)close(stream->pidfd);
  stream->fd = stream->pidfd = -1;
}

static void release(struct stream *stream) {
  if (--stream->holders > 0) return;
  close_fds(stream);
  free(stream);
}

static void forget(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  release(data);
}

static void handle_closed(uv_handle_t *handle) {
  struct stream *stream = handle->data;
  if (handle == (uv_handle_t *)&stream->poll) (void)napi_remove_async_cleanup_hook(stream->cleanup);
  release(stream);
}

/* A descriptor may be closed as soon as uv_close was called for its handle. */
static void close_stream(struct stream *stream) {
  if (stream->on_event != NULL) {
    (void)napi_delete_reference(stream->env, stream->on_event);
    stream->on_event = NULL;
    if (stream->pidfd >= 0) uv_close((uv_handle_t *)&stream->death, handle_closed);
    uv_close((uv_handle_t *)&stream->poll, handle_closed);
  }
  close_fds(stream);
}

static void environment_ends(napi_async_cleanup_hook_handle handle, void *data) {
  (void)handle;
  close_stream(data);
}

static void tell(struct stream *stream, int events) {
  napi_handle_scope scope;
  napi_value argument;
  if (stream->on_event == NULL || napi_open_handle_scope(stream->env, &scope) != napi_ok) return;
  napi_create_int32(stream->env, events, &argument);
  call_back(stream->env, stream->on_event, 1, &argument);
  napi_close_handle_scope(stream->env, scope);
}

/* An error of the socket itself is found by the next receive or send. */
static void socket_ready(uv_poll_t *handle, int status, int events) {
  int ready = status < 0 ? READABLE | WRITABLE : 0;
  if ((events & UV_READABLE) != 0) ready |= READABLE;
  if ((events & UV_WRITABLE) != 0) ready |= WRITABLE;
  tell(handle->data, ready);
}

static void connector_died(uv_poll_t *handle, int status, int events) {
  (void)status;
  (void)events;
  (void)uv_poll_stop(handle);
  tell(handle->data, DIED);
}

napi_value make_stream(napi_env env, int fd, int pidfd, const struct ucred *peer) {
  napi_value object;
  struct stream *stream = calloc(1, sizeof *stream);
  if (stream == NULL) {
    (void)close(fd);
    if (pidfd >= 0) (void)close(pidfd);
    return throw_errno(env, ENOMEM, "stream");
  }
  *stream = (struct stream){.env = env, .fd = fd, .pidfd = pidfd, .peer = *peer, .holders = 1};
  if (napi_create_external(env, stream, forget, NULL, &object) != napi_ok) {
    release(stream);
    return throw_errno(env, ENOMEM, "stream");
  }
  return napi_type_tag_object(env, object, &STREAM) == napi_ok ? object : throw_errno(env, ENOMEM, "stream");
}

struct stream *open_stream(napi_env env, napi_value value) {
  void *data;
  if (!has_tag(env, value, &STREAM, &data)) {
    napi_throw_type_error(env, NULL, "stream: expected a connection of this add-on");
    return NULL;
  }
  struct stream *stream = data;
  if (stream->fd >= 0) return stream;
  throw_errno(env, EBADF, "stream");
  return NULL;
}

static bool watch_handle(uv_loop_t *loop, uv_poll_t *handle, int fd, struct stream *stream) {
  if (uv_poll_init(loop, handle, fd) != 0) return false;
  handle->data = stream;
  stream->holders += 1;
  return true;
}

/* streamStart(stream, onEvent): from now on onEvent hears of it; readable is watched */
napi_value native_stream_start(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  size_t argc = 2;
  uv_loop_t *loop;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  struct stream *stream = argc == 2 ? open_stream(env, argv[0]) : NULL;
  if (stream == NULL || stream->on_event != NULL) return NULL;
  if (napi_get_uv_event_loop(env, &loop) != napi_ok || !watch_handle(loop, &stream->poll, stream->fd, stream)) {
    close_fds(stream);
    return throw_errno(env, EIO, "watch");
  }
  bool dies = stream->pidfd >= 0 && watch_handle(loop, &stream->death, stream->pidfd, stream);
  if (stream->pidfd >= 0 && !dies) {
    (void)close(stream->pidfd); /* nothing that it sends can be told to be its own: receive refuses it */
    stream->pidfd = -1;
  }
  (void)napi_create_reference(env, argv[1], 1, &stream->on_event);
  (void)napi_add_async_cleanup_hook(env, environment_ends, stream, &stream->cleanup);
  (void)uv_poll_start(&stream->poll, UV_READABLE, socket_ready);
  if (dies) (void)uv_poll_start(&stream->death, UV_READABLE, connector_died);
  return NULL;
}

/* streamWatch(stream, events): READABLE and WRITABLE, either or none */
napi_value native_stream_watch(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  size_t argc = 2;
  int32_t events = 0;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  struct stream *stream = argc == 2 ? open_stream(env, argv[0]) : NULL;
  if (stream == NULL || stream->on_event == NULL) return NULL;
  napi_get_value_int32(env, argv[1], &events);
  int wanted = ((events & READABLE) != 0 ? UV_READABLE : 0) | ((events & WRITABLE) != 0 ? UV_WRITABLE : 0);
  int failed = wanted == 0 ? uv_poll_stop(&stream->poll) : uv_poll_start(&stream->poll, wanted, socket_ready);
  return failed == 0 ? NULL : throw_errno(env, -failed, "watch");
}

/* streamEnd(stream): no more bytes will be sent */
napi_value native_stream_end(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  size_t argc = 1;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  struct stream *stream = argc == 1 ? open_stream(env, argv[0]) : NULL;
  if (stream != NULL) (void)shutdown(stream->fd, SHUT_WR);
  return NULL;
}

/* streamPidfd(stream): a copy for the caller to close, -1 when there is none */
napi_value native_stream_pidfd(napi_env env, napi_callback_info info) {
  napi_value argv[1], result;
  size_t argc = 1;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  struct stream *stream = argc == 1 ? open_stream(env, argv[0]) : NULL;
  if (stream == NULL) return NULL;
  int copy = stream->pidfd < 0 ? -1 : fcntl(stream->pidfd, F_DUPFD_CLOEXEC, 3);
  if (stream->pidfd >= 0 && copy < 0) return throw_errno(env, errno, "pidfd");
  napi_create_int32(env, copy, &result);
  return result;
}

/* streamClose(stream): nothing of it is left afterwards; once more is no error */
napi_value native_stream_close(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  size_t argc = 1;
  void *data;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (argc == 1 && has_tag(env, argv[0], &STREAM, &data)) close_stream(data);
  return NULL;
}
