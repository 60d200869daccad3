#ifndef IRONCLAW_ADDON_H
#define IRONCLAW_ADDON_H

#include <node_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Throws an Error whose `code` is the errno's name, e.g. EPERM; returns NULL for `return throw_errno(...)`. */
napi_value throw_errno(napi_env env, int error, const char *what);
/* An Error as throw_errno's, for rejecting a promise. */
napi_value make_error(napi_env env, int error, const char *what);
/* Argument `index` of `argv` as a file descriptor; false (and a pending TypeError) when it is not one. */
bool get_fd(napi_env env, napi_value value, int *fd);
/* poll(2) that does not wait: whether one of `events` holds now, or an end. A signal is no answer: it would make a living process a dead one. */
bool holds_now(int fd, short events);
void set_function(napi_env env, napi_value exports, const char *name, napi_callback function);
void set_number(napi_env env, napi_value object, const char *name, double number);

/* messages.c: one message with file descriptors, on a worker thread */
napi_value native_call(napi_env env, napi_callback_info info);
napi_value native_receive_with_fds(napi_env env, napi_callback_info info);
/* process.c: peers and this process */
napi_value native_peer_credentials(napi_env env, napi_callback_info info);
napi_value native_is_alive(napi_env env, napi_callback_info info);
napi_value native_boot_time(napi_env env, napi_callback_info info);
napi_value native_close_fd(napi_env env, napi_callback_info info);
napi_value native_pipe(napi_env env, napi_callback_info info);
napi_value native_socket_pair(napi_env env, napi_callback_info info);
napi_value native_set_non_dumpable(napi_env env, napi_callback_info info);
/* listener.c: a Unix stream socket that listens */
napi_value native_listen(napi_env env, napi_callback_info info);
napi_value native_accept(napi_env env, napi_callback_info info);
napi_value native_stop(napi_env env, napi_callback_info info);
/* stream.c: an accepted connection, or one that the agent made */
napi_value native_stream_open(napi_env env, napi_callback_info info);
napi_value native_stream_start(napi_env env, napi_callback_info info);
napi_value native_stream_watch(napi_env env, napi_callback_info info);
napi_value native_stream_end(napi_env env, napi_callback_info info);
napi_value native_stream_pidfd(napi_env env, napi_callback_info info);
napi_value native_stream_close(napi_env env, napi_callback_info info);
/* stream_io.c: its bytes, and who sent them */
napi_value native_stream_receive(napi_env env, napi_callback_info info);
napi_value native_stream_take_late(napi_env env, napi_callback_info info);
napi_value native_stream_send(napi_env env, napi_callback_info info);
napi_value native_stream_held(napi_env env, napi_callback_info info);
/* notify.c: the supervisor of a shim's filter */
napi_value native_watch_notifications(napi_env env, napi_callback_info info);

#endif
