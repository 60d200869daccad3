/*
 * Preloaded into the shim: the Landlock of Linux 6.1 (ABI 2) before a newer kernel. It says 2, and refuses what that kernel refuses: rights that
 * it does not know (EINVAL) and attributes behind the one that it knows which are not zero (E2BIG). What is left is done for real.
 */
#include <errno.h>
#include <linux/landlock.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>

enum { ABI = 2, KNOWN_RIGHTS = (1 << 14) - 1 };

struct path_attr { uint64_t access; int32_t fd; } __attribute__((packed));

static long enter_kernel(long nr, const long args[6]) {
  long result;
  register long r10 __asm__("r10") = args[3];
  register long r8 __asm__("r8") = args[4];
  register long r9 __asm__("r9") = args[5];
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(nr), "D"(args[0]), "S"(args[1]), "d"(args[2]), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  if (result >= 0) return result;
  errno = (int)-result;
  return -1;
}

static int refuse_ruleset(const long args[6]) {
  uint64_t attributes[8] = {0};
  memcpy(attributes, (const void *)args[0], (size_t)args[1] < sizeof attributes ? (size_t)args[1] : sizeof attributes);
  for (int i = 1; i < 8; i++) {
    if (attributes[i] != 0) return E2BIG;
  }
  return (attributes[0] & ~(uint64_t)KNOWN_RIGHTS) != 0 ? EINVAL : 0;
}

static int refuse_rule(const long args[6]) {
  if (args[1] != LANDLOCK_RULE_PATH_BENEATH) return EINVAL;
  return (((const struct path_attr *)args[2])->access & ~(uint64_t)KNOWN_RIGHTS) != 0 ? EINVAL : 0;
}

__attribute__((visibility("default"))) long syscall(long nr, ...) {
  long args[6];
  va_list list;
  va_start(list, nr);
  for (int i = 0; i < 6; i++) args[i] = va_arg(list, long);
  va_end(list);
  int refused = 0;
  if (nr == SYS_landlock_create_ruleset) {
    if (args[2] == LANDLOCK_CREATE_RULESET_VERSION) return ABI;
    refused = refuse_ruleset(args);
  }
  if (nr == SYS_landlock_add_rule) refused = refuse_rule(args);
  if (refused == 0) return enter_kernel(nr, args);
  errno = refused;
  return -1;
}
