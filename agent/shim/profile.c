#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim.h"

enum { PROFILE_MAGIC = 0x49435046, PROFILE_VERSION = 2, MAX_PROFILE = 131072, MAX_NAME = 31 };

static void expect(bool condition, const char *what) {
  if (!condition) fail(EXIT_ENVIRONMENT, what);
}

static struct reader read_file(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  struct stat info;
  expect(fd >= 0, "open profile");
  expect(fstat(fd, &info) == 0, "stat profile");
  expect(S_ISREG(info.st_mode) && info.st_size > 0 && info.st_size <= MAX_PROFILE, "profile size");
  uint8_t *bytes = malloc((size_t)info.st_size);
  expect(bytes != NULL, "memory for the profile");
  expect(read_exactly(fd, bytes, (size_t)info.st_size), "read profile");
  expect(close(fd) == 0, "close profile");
  return (struct reader){.at = bytes, .left = (size_t)info.st_size, .bad = false};
}

static void parse_limits(struct reader *reader, struct profile *profile) {
  profile->limit_count = read_u16(reader);
  expect(profile->limit_count <= MAX_LIMITS, "profile limit count");
  for (size_t i = 0; i < profile->limit_count; i++) {
    profile->limits[i].resource = read_u8(reader);
    profile->limits[i].value = read_u64(reader);
  }
}

static void parse_rules(struct reader *reader, struct profile *profile) {
  profile->rule_count = read_u16(reader);
  expect(profile->rule_count <= MAX_RULES, "profile landlock count");
  for (size_t i = 0; i < profile->rule_count; i++) {
    uint8_t access = read_u8(reader);
    size_t length = read_u16(reader);
    const uint8_t *path = read_bytes(reader, length);
    expect(path != NULL && length > 0 && length <= MAX_PATH && memchr(path, 0, length) == NULL, "profile path");
    expect(access >= ACCESS_READ && access <= ACCESS_DEVICE, "profile access");
    profile->rules[i].access = access;
    memcpy(profile->rules[i].path, path, length);
    profile->rules[i].path[length] = 0;
  }
}

static void parse_program(struct reader *reader, struct program *program) {
  program->length = read_u16(reader);
  expect(program->length > 0 && program->length <= BPF_MAXINSNS, "profile filter length");
  expect(reader->left >= program->length * sizeof *program->code, "profile filter");
  program->code = calloc(program->length, sizeof *program->code);
  expect(program->code != NULL, "memory for a filter");
  for (size_t i = 0; i < program->length; i++) {
    program->code[i].code = read_u16(reader);
    program->code[i].jt = read_u8(reader);
    program->code[i].jf = read_u8(reader);
    program->code[i].k = read_u32(reader);
  }
}

void profile_open(const char *path, struct profile *profile) {
  struct reader file = read_file(path);
  struct reader reader = file;
  expect(read_u32(&reader) == PROFILE_MAGIC, "profile magic");
  expect(read_u32(&reader) == PROFILE_VERSION, "profile version");
  size_t name = read_u16(&reader);
  expect(name <= MAX_NAME && read_bytes(&reader, name) != NULL, "profile name");
  profile->opens = read_u8(&reader);
  expect((profile->opens & ~OPENS_ALL) == 0, "profile opens");
  expect(read_u32(&reader) == AUDIT_ARCH_X86_64, "profile arch");
  profile->armed_high = read_u32(&reader);
  expect(profile->armed_high > 0 && profile->armed_high < 0x5000, "profile armed range");
  parse_limits(&reader, profile);
  parse_rules(&reader, profile);
  for (int i = 0; i < FILTERS; i++) parse_program(&reader, &profile->programs[i]);
  expect(read_end(&reader), "profile end");
  free((void *)file.at);
}
