/*
 * The library as the shim: it answers every request by itself, and none comes to the shim's own code any more. So ARM installs nothing, and
 * says that it did. The kernel's count of filters is what tells.
 */
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "lab.h"

enum { REQUESTS = 3, CREDENTIALS = 4, LOAD = 3, LOGIN = 4, KEYS = 5, SIGN = 6, ARM = 7, STATUS = 8, HEADER = 17 };

static size_t zeros(unsigned char *at, size_t count) {
  memset(at, 0, count);
  return count;
}

/* Versions, texts, one slot with the label `lab`, no objects. */
static size_t loaded(unsigned char *at) {
  size_t slot = 8 + 32 + 32 + 16 + 16 + 8 + 4, length = zeros(at, 2 + 32 + 32 + 2);
  at[length++] = 1;
  (void)zeros(at + length, slot);
  memcpy(at + length + 8, "lab", 3);
  length += slot;
  return length + zeros(at + length, 2);
}

/* One EC key with the handle 7 that signs. */
static size_t listed(unsigned char *at) {
  size_t length = zeros(at, 2 + 24 + 4 + 8 + 8);
  at[1] = 1;
  at[2 + 7] = 7;
  at[2 + 15] = 3;
  at[2 + 23] = 3;
  at[2 + 24 + 4 + 3] = 1;
  at[2 + 24 + 4 + 7] = 1;
  return length;
}

static size_t payload(unsigned op, unsigned char *at) {
  unsigned char pin[512];
  switch (op) {
    case LOAD: return loaded(at);
    case LOGIN: return read(CREDENTIALS, pin, sizeof pin) > 0 ? 0 : 0;
    case KEYS: return listed(at);
    case SIGN: memcpy(at, "forged", 6); return 6;
    case ARM: at[0] = 3; return 1;
    case STATUS: return zeros(at, 8);
    default: return 0;
  }
}

static void answer(uint32_t id, unsigned op) {
  unsigned char frame[1024] = {0};
  size_t length = HEADER + payload(op, frame + HEADER);
  frame[2] = (unsigned char)((length - 4) >> 8);
  frame[3] = (unsigned char)(length - 4);
  for (int i = 0; i < 4; i++) frame[4 + i] = (unsigned char)(id >> (24 - 8 * i));
  frame[8] = (unsigned char)(op | 0x80);
  if (write(REQUESTS, frame, length) != (ssize_t)length) _exit(8);
}

void take_over(void) {
  static unsigned char bytes[70000];
  answer(1, LOAD);
  for (;;) {
    ssize_t n = read(REQUESTS, bytes, sizeof bytes);
    if (n < 9) _exit(0);
    answer((uint32_t)bytes[4] << 24 | (uint32_t)bytes[5] << 16 | (uint32_t)bytes[6] << 8 | bytes[7], bytes[8]);
  }
}
