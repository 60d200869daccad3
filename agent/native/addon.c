#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "addon.h"

napi_value make_error(napi_env env, int error, const char *what) {
  char text[160];
  napi_value message, code, result;
  const char *name = strerrorname_np(error);
  (void)snprintf(text, sizeof text, "%s: %s", what, strerrordesc_np(error) == NULL ? "?" : strerrordesc_np(error));
  napi_create_string_utf8(env, text, NAPI_AUTO_LENGTH, &message);
  napi_create_string_utf8(env, name == NULL ? "EUNKNOWN" : name, NAPI_AUTO_LENGTH, &code);
  napi_create_error(env, code, message, &result);
  return result;
}

napi_value throw_errno(napi_env env, int error, const char *what) {
  napi_throw(env, make_error(env, error, what));
  return NULL;
}

bool get_fd(napi_env env, napi_value value, int *fd) {
  if (napi_get_value_int32(env, value, fd) == napi_ok && *fd >= 0) return true;
  napi_throw_type_error(env, NULL, "fd: expected a file descriptor");
  return false;
}

void set_function(napi_env env, napi_value exports, const char *name, napi_callback function) {
  napi_value value;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, function, NULL, &value);
  napi_set_named_property(env, exports, name, value);
}

void set_number(napi_env env, napi_value object, const char *name, double number) {
  napi_value value;
  napi_create_double(env, number, &value);
  napi_set_named_property(env, object, name, value);
}

NAPI_MODULE_INIT() {
  set_function(env, exports, "call", native_call);
  set_function(env, exports, "receiveWithFds", native_receive_with_fds);
  set_function(env, exports, "peerCredentials", native_peer_credentials);
  set_function(env, exports, "isAlive", native_is_alive);
  set_function(env, exports, "bootTime", native_boot_time);
  set_function(env, exports, "closeFd", native_close_fd);
  set_function(env, exports, "pipe", native_pipe);
  set_function(env, exports, "socketPair", native_socket_pair);
  set_function(env, exports, "setNonDumpable", native_set_non_dumpable);
  set_function(env, exports, "listen", native_listen);
  set_function(env, exports, "accept", native_accept);
  set_function(env, exports, "stop", native_stop);
  set_function(env, exports, "streamOpen", native_stream_open);
  set_function(env, exports, "streamStart", native_stream_start);
  set_function(env, exports, "streamWatch", native_stream_watch);
  set_function(env, exports, "streamReceive", native_stream_receive);
  set_function(env, exports, "streamTakeLate", native_stream_take_late);
  set_function(env, exports, "streamSend", native_stream_send);
  set_function(env, exports, "streamHeld", native_stream_held);
  set_function(env, exports, "streamEnd", native_stream_end);
  set_function(env, exports, "streamPidfd", native_stream_pidfd);
  set_function(env, exports, "streamClose", native_stream_close);
  set_function(env, exports, "watchNotifications", native_watch_notifications);
  return exports;
}
