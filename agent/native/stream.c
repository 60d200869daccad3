#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "addon.h"
#include "sockets.h"

static const napi_type_tag STREAM = {0x6c1d3f4e9a524b07, 0x8f2be05d7713a9c4};

static void close_stream(struct stream *stream) {
  if (stream->on_event != NULL) {
    hub_remove(stream);
    (void)napi_delete_reference(stream->env, stream->on_event);
    stream->on_event = NULL;
  }
  /* What was answered is taken: a peer whose bytes are left behind is told that the connection was broken. */
  if (stream->fd >= 0) stream_take_kept(stream);
  if (stream->fd >= 0) (void)close(stream->fd);
  if (stream->pidfd >= 0) (void)close(stream->pidfd);
  stream->fd = stream->pidfd = -1;
}

static void environment_ends(void *data) { close_stream(data); }

static void forget(napi_env env, void *data, void *hint) {
  struct stream *stream = data;
  (void)hint;
  (void)napi_remove_env_cleanup_hook(env, environment_ends, stream);
  close_stream(stream);
  free(stream);
}

void stream_tell(struct stream *stream, int events) {
  napi_handle_scope scope;
  napi_value argument;
  if (stream->on_event == NULL || napi_open_handle_scope(stream->env, &scope) != napi_ok) return;
  napi_create_int32(stream->env, events, &argument);
  call_back(stream->env, stream->on_event, 1, &argument);
  napi_close_handle_scope(stream->env, scope);
}

napi_value make_stream(napi_env env, int fd, int pidfd, const struct ucred *peer) {
  napi_value object;
  struct stream *stream = calloc(1, sizeof *stream);
  if (stream == NULL) return throw_errno(env, ENOMEM, "stream");
  *stream = (struct stream){.env = env, .fd = -1, .pidfd = -1, .peer = *peer};
  if (napi_create_external(env, stream, forget, NULL, &object) != napi_ok) {
    free(stream);
    return throw_errno(env, ENOMEM, "stream");
  }
  if (napi_type_tag_object(env, object, &STREAM) != napi_ok) return throw_errno(env, ENOMEM, "stream");
  stream->fd = fd; /* not before: what is collected closes what it has */
  stream->pidfd = pidfd;
  return object;
}

/* streamOpen(fd): takes over one end of a pair of connected Unix sockets that the agent made, unless it throws */
napi_value native_stream_open(napi_env env, napi_callback_info info) {
  napi_value argv[1], object;
  size_t argc = 1;
  void *data;
  int fd;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (argc != 1 || !get_fd(env, argv[0], &fd)) return NULL;
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 || !hub_open(env)) return throw_errno(env, errno, "stream");
  object = make_stream(env, fd, -1, &(struct ucred){0});
  if (object != NULL && napi_get_value_external(env, object, &data) == napi_ok) ((struct stream *)data)->is_own = true;
  return object;
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

/* streamStart(stream, onEvent): from now on onEvent hears of it */
napi_value native_stream_start(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  size_t argc = 2;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  struct stream *stream = argc == 2 ? open_stream(env, argv[0]) : NULL;
  if (stream == NULL || stream->on_event != NULL) return NULL;
  /* First: what the hub has and nobody is told of would never be taken out of it. */
  if (napi_create_reference(env, argv[1], 1, &stream->on_event) != napi_ok) {
    close_stream(stream);
    return throw_errno(env, ENOMEM, "watch");
  }
  if (!hub_add(stream)) {
    int error = errno;
    (void)napi_delete_reference(env, stream->on_event);
    stream->on_event = NULL;
    close_stream(stream);
    return throw_errno(env, error, "watch");
  }
  (void)napi_add_env_cleanup_hook(env, environment_ends, stream);
  return NULL;
}

/* streamWatch(stream, wanted): whether onEvent hears that it is writable */
napi_value native_stream_watch(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  size_t argc = 2;
  bool wanted = false;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  struct stream *stream = argc == 2 ? open_stream(env, argv[0]) : NULL;
  if (stream == NULL || stream->on_event == NULL) return NULL;
  napi_get_value_bool(env, argv[1], &wanted);
  return hub_watch_writable(stream, wanted) ? NULL : throw_errno(env, errno, "watch");
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
