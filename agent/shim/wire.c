#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shim.h"

enum { REQUEST_HEADER = 5, REPLY_HEADER = 4 + 4 + 1 + 8, REPLY_BIT = 0x80, OP_READY = 1 };

const uint8_t *read_bytes(struct reader *reader, size_t length) {
  if (reader->bad || length > reader->left) {
    reader->bad = true;
    return NULL;
  }
  const uint8_t *bytes = reader->at;
  reader->at += length;
  reader->left -= length;
  return bytes;
}

static uint64_t read_number(struct reader *reader, size_t size) {
  const uint8_t *bytes = read_bytes(reader, size);
  uint64_t value = 0;
  for (size_t i = 0; bytes != NULL && i < size; i++) value = value << 8 | bytes[i];
  return value;
}

uint8_t read_u8(struct reader *reader) { return (uint8_t)read_number(reader, 1); }
uint16_t read_u16(struct reader *reader) { return (uint16_t)read_number(reader, 2); }
uint32_t read_u32(struct reader *reader) { return (uint32_t)read_number(reader, 4); }
uint64_t read_u64(struct reader *reader) { return read_number(reader, 8); }
bool read_end(const struct reader *reader) { return !reader->bad && reader->left == 0; }

bool read_path(struct reader *reader, char *path) {
  size_t length = read_u16(reader);
  const uint8_t *bytes = read_bytes(reader, length);
  expect_end(reader);
  if (length == 0 || length > MAX_PATH || bytes[0] != '/' || memchr(bytes, 0, length) != NULL) return false;
  memcpy(path, bytes, length);
  path[length] = 0;
  return true;
}

void write_bytes(struct writer *writer, const void *bytes, size_t length) {
  if (writer->full || length > sizeof writer->bytes - writer->length) {
    writer->full = true;
    return;
  }
  if (length > 0) memcpy(writer->bytes + writer->length, bytes, length);
  writer->length += length;
}

static void put_number(uint8_t *bytes, uint64_t value, size_t size) {
  for (size_t i = 0; i < size; i++) bytes[i] = (uint8_t)(value >> (8 * (size - 1 - i)));
}

static void write_number(struct writer *writer, uint64_t value, size_t size) {
  uint8_t bytes[8];
  put_number(bytes, value, size);
  write_bytes(writer, bytes, size);
}

void write_u8(struct writer *writer, uint8_t value) { write_number(writer, value, 1); }
void write_u16(struct writer *writer, uint16_t value) { write_number(writer, value, 2); }
void write_u32(struct writer *writer, uint32_t value) { write_number(writer, value, 4); }
void write_u64(struct writer *writer, uint64_t value) { write_number(writer, value, 8); }

void write_sized16(struct writer *writer, const void *bytes, size_t length) {
  if (length > UINT16_MAX) writer->full = true;
  write_u16(writer, (uint16_t)length);
  write_bytes(writer, bytes, length);
}

void patch_u16(struct writer *writer, size_t offset, uint16_t value) {
  if (!writer->full) put_number(writer->bytes + offset, value, 2);
}

bool read_exactly(int fd, void *bytes, size_t length) {
  size_t done = 0;
  while (done < length) {
    ssize_t n = read(fd, (uint8_t *)bytes + done, length - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += (size_t)n;
  }
  return true;
}

static void write_exactly(int fd, const uint8_t *bytes, size_t length) {
  size_t done = 0;
  while (done < length) {
    ssize_t n = write(fd, bytes + done, length - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(EXIT_ENVIRONMENT, "write reply");
    done += (size_t)n;
  }
}

/* What came and is not yet answered: whole frames, and the beginning of one. */
static struct { size_t start, end; uint8_t bytes[2 * (4 + MAX_FRAME)]; } inbox;
/* Replies of one batch. */
static struct { size_t length; uint8_t bytes[4 + MAX_FRAME]; } outbox;

bool holds_replies(void) { return outbox.length > 0; }

void begin_stream(void) { inbox.start = inbox.end = outbox.length = 0; }

/* The size of the frame that begins there, 0 while its length field is not there. Its length is judged before its bytes are waited for. */
static size_t frame_at(size_t start) {
  struct reader head = {.at = inbox.bytes + start, .left = inbox.end - start};
  if (head.left < 4) return 0;
  size_t size = read_u32(&head);
  if (size < REQUEST_HEADER || size > MAX_FRAME) fail(EXIT_PROTOCOL, "request length");
  return 4 + size;
}

bool has_requests(size_t count) {
  for (size_t at = inbox.start; count > 0; count--) {
    size_t size = frame_at(at);
    if (size == 0 || inbox.end - at < size) return false;
    at += size;
  }
  return true;
}

/* False at the end of the stream. */
static bool receive_more(void) {
  if (inbox.start > 0) memmove(inbox.bytes, inbox.bytes + inbox.start, inbox.end - inbox.start);
  inbox.end -= inbox.start;
  inbox.start = 0;
  ssize_t n;
  do n = read(REQUEST_FD, inbox.bytes + inbox.end, sizeof inbox.bytes - inbox.end);
  while (n < 0 && errno == EINTR);
  if (n < 0 || (n == 0 && inbox.end > 0)) fail(EXIT_PROTOCOL, "request cut short");
  inbox.end += (size_t)n;
  return n > 0;
}

bool next_request(struct request *request) {
  while (!has_requests(1)) {
    if (!receive_more()) return false;
  }
  size_t size = frame_at(inbox.start);
  request->payload = (struct reader){.at = inbox.bytes + inbox.start + 4, .left = size - 4};
  inbox.start += size;
  request->id = read_u32(&request->payload);
  request->op = read_u8(&request->payload);
  return true;
}

void reply_begin(struct writer *writer, uint32_t id, uint8_t op) {
  writer->length = 0;
  writer->full = false;
  write_u32(writer, 0);
  write_u32(writer, id);
  write_u8(writer, op | REPLY_BIT);
  write_u64(writer, 0);
}

/* Patches length and rv in. A payload that did not fit is dropped whole, never cut. */
static void reply_finish(struct writer *writer, CK_RV rv) {
  if (writer->full) {
    writer->length = REPLY_HEADER;
    rv = CKR_BUFFER_TOO_SMALL;
  }
  put_number(writer->bytes, writer->length - 4, 4);
  put_number(writer->bytes + 9, rv, 8);
}

void reply_end(struct writer *writer, CK_RV rv) {
  reply_finish(writer, rv);
  if (writer->length > sizeof outbox.bytes - outbox.length) flush_replies();
  memcpy(outbox.bytes + outbox.length, writer->bytes, writer->length);
  outbox.length += writer->length;
  explicit_bzero(writer->bytes, writer->length);
}

void flush_replies(void) {
  write_exactly(REQUEST_FD, outbox.bytes, outbox.length);
  explicit_bzero(outbox.bytes, outbox.length);
  outbox.length = 0;
}

void send_ready(const struct confinement *confinement, int notifier) {
  static struct writer writer;
  reply_begin(&writer, 0, OP_READY);
  write_u32(&writer, (uint32_t)confinement->landlock_abi);
  write_u8(&writer, confinement->filters);
  reply_finish(&writer, CKR_OK);
  union {
    struct cmsghdr header;
    uint8_t bytes[CMSG_SPACE(sizeof notifier)];
  } control = {0};
  struct iovec part = {.iov_base = writer.bytes, .iov_len = writer.length};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof notifier);
  memcpy(CMSG_DATA(rights), &notifier, sizeof notifier);
  if (sendmsg(REQUEST_FD, &message, MSG_NOSIGNAL) != (ssize_t)writer.length) fail(EXIT_ENVIRONMENT, "send READY");
}
