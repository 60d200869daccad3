#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "addon.h"
#include "sockets.h"

/*
 * What receive and send say when the socket has nothing, or no room; what receive says when nobody can tell any more who has sent, and
 * what it adds to a length when there may be more. Otherwise there is none of which the stream is not told anew.
 */
enum { WOULD_BLOCK = -1, CONNECTOR_DIED = -2, MAY_HAVE_MORE = 1 << 30 };

static napi_value throw_sender(napi_env env, const char *what) {
  napi_throw_error(env, "EFOREIGN", what);
  return NULL;
}

static napi_value throw_foreign(napi_env env, const struct ucred *sender) {
  char text[96];
  (void)snprintf(text, sizeof text, "pid %d, uid %u, gid %u", (int)sender->pid, sender->uid, sender->gid);
  return throw_sender(env, text);
}

union credentials {
  struct cmsghdr header;
  uint8_t bytes[CMSG_SPACE(sizeof(struct ucred))];
};

static ssize_t receive_piece(const struct stream *stream, void *bytes, size_t length, int flags, struct ucred *sender, bool *with_descriptors) {
  union credentials control = {0};
  struct iovec part = {.iov_base = bytes, .iov_len = length};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  ssize_t got;
  do got = recvmsg(stream->fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT | flags);
  while (got < 0 && errno == EINTR);
  /* Room for the credentials alone: of descriptors that come along the kernel makes none here, and says MSG_CTRUNC. */
  *with_descriptors = got > 0 && (message.msg_flags & MSG_CTRUNC) != 0;
  const struct cmsghdr *first = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
  *sender = (struct ucred){.uid = (uid_t)-1, .gid = (gid_t)-1};
  if (first != NULL && first->cmsg_level == SOL_SOCKET && first->cmsg_type == SCM_CREDENTIALS)
    memcpy(sender, CMSG_DATA(first), sizeof *sender);
  return got;
}

static bool get_bytes(napi_env env, napi_value value, uint8_t **bytes, size_t *length) {
  napi_typedarray_type type;
  if (napi_get_typedarray_info(env, value, &type, length, (void **)bytes, NULL, NULL) == napi_ok && type == napi_uint8_array) return true;
  napi_throw_type_error(env, NULL, "bytes: expected a Uint8Array");
  return false;
}

enum { MAX_PIECES = 16, MAX_KEPT = 16384 };

void stream_take_kept(struct stream *stream) {
  static _Thread_local uint8_t bytes[4096];
  while (stream->kept > 0) {
    ssize_t got = recv(stream->fd, bytes, stream->kept < sizeof bytes ? stream->kept : sizeof bytes, MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break; /* what is wrong with the socket is found by whoever reads on */
    explicit_bzero(bytes, (size_t)got);
    stream->kept -= (size_t)got;
  }
  stream->kept = stream->pieces = 0;
}

/* Reads behind what is kept (SO_PEEK_OFF). */
static ssize_t receive_late(struct stream *stream, void *bytes, size_t length, struct ucred *sender, bool *with_descriptors) {
  if (stream->pieces >= MAX_PIECES || stream->kept >= MAX_KEPT) stream_take_kept(stream);
  ssize_t got = receive_piece(stream, bytes, length, MSG_PEEK, sender, with_descriptors);
  if (got <= 0) return got;
  if (stream->kept == 0) hub_keeps(stream);
  stream->kept += (size_t)got;
  stream->pieces++;
  return got;
}

/*
 * streamTakeLate(stream): from now on what is received stays in the socket for some more pieces, or milliseconds. To take it wakes the
 * sender, which waits for its reply, for nothing (unix_write_space in the kernel).
 */
napi_value native_stream_take_late(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  size_t argc = 1;
  int offset = 0, on = 1;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  struct stream *stream = argc == 1 ? open_stream(env, argv[0]) : NULL;
  if (stream == NULL || stream->takes_late) return NULL;
  /* Urgent bytes in their order: otherwise they are looked at and taken in different ones. */
  stream->takes_late = setsockopt(stream->fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on) == 0 &&
                       setsockopt(stream->fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset) == 0;
  return NULL;
}

/* Whether the connector lives, and, of a stream that is read as it comes, whether there is more: its end, or bytes of another sender. */
static bool lives(const struct stream *stream, bool *more) {
  struct pollfd entries[2] = {{.fd = stream->pidfd, .events = POLLIN}, {.fd = stream->fd, .events = POLLIN | POLLRDHUP}};
  int ready;
  do ready = poll(entries, stream->takes_late ? 1 : 2, 0);
  while (ready < 0 && errno == EINTR);
  if (!stream->takes_late && entries[1].revents != 0) *more = true;
  return stream->is_own || (stream->pidfd >= 0 && ready >= 0 && entries[0].revents == 0);
}

/*
 * streamReceive(stream, buffer): how many bytes, with MAY_HAVE_MORE or without, 0 at the end, WOULD_BLOCK, CONNECTOR_DIED. Throws EFOREIGN
 * when they came with descriptors or from another process. That the connector lives is looked at after the bytes came: its number was its
 * own the whole time.
 */
napi_value native_stream_receive(napi_env env, napi_callback_info info) {
  napi_value argv[2], result;
  size_t argc = 2, length = 0;
  uint8_t *bytes;
  bool with_descriptors;
  struct ucred sender;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  struct stream *stream = argc == 2 ? open_stream(env, argv[0]) : NULL;
  if (stream == NULL || !get_bytes(env, argv[1], &bytes, &length)) return NULL;
  ssize_t got = stream->takes_late ? receive_late(stream, bytes, length, &sender, &with_descriptors)
                                   : receive_piece(stream, bytes, length, 0, &sender, &with_descriptors);
  int error = errno;
  if (got < 0 && error != EAGAIN && error != EWOULDBLOCK) return throw_errno(env, error, "receive");
  bool foreign = got > 0 && !stream->is_own && memcmp(&sender, &stream->peer, sizeof sender) != 0;
  bool more = stream->ended || (size_t)got == length;
  bool dead = got > 0 && !lives(stream, &more);
  if (got > 0 && (with_descriptors || foreign || dead)) memset(bytes, 0, (size_t)got);
  if (with_descriptors) return throw_sender(env, "descriptors");
  if (foreign) return throw_foreign(env, &sender);
  int32_t said = got < 0 ? WOULD_BLOCK : (int32_t)got;
  if (got > 0 && more) said |= MAY_HAVE_MORE;
  napi_create_int32(env, dead ? CONNECTOR_DIED : said, &result);
  return result;
}

/* streamSend(stream, bytes, from): how many bytes the kernel took, WOULD_BLOCK */
napi_value native_stream_send(napi_env env, napi_callback_info info) {
  napi_value argv[3], result;
  size_t argc = 3, length = 0;
  uint32_t from = 0;
  uint8_t *bytes;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  struct stream *stream = argc == 3 ? open_stream(env, argv[0]) : NULL;
  if (stream == NULL || !get_bytes(env, argv[1], &bytes, &length)) return NULL;
  if (napi_get_value_uint32(env, argv[2], &from) != napi_ok || from > length) {
    napi_throw_type_error(env, NULL, "from: expected a place in the bytes");
    return NULL;
  }
  ssize_t sent;
  do sent = send(stream->fd, bytes + from, length - from, MSG_DONTWAIT | MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK) return throw_errno(env, errno, "send");
  napi_create_int32(env, sent < 0 ? WOULD_BLOCK : (int32_t)sent, &result);
  return result;
}

/* streamHeld(stream): whether any process still has the other end */
napi_value native_stream_held(napi_env env, napi_callback_info info) {
  napi_value argv[1], result;
  size_t argc = 1;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  struct stream *stream = argc == 1 ? open_stream(env, argv[0]) : NULL;
  if (stream == NULL) return NULL;
  napi_get_boolean(env, !holds_now(stream->fd, 0), &result);
  return result;
}
