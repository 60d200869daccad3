#ifndef IRONCLAW_HOSTILE_LAB_H
#define IRONCLAW_HOSTILE_LAB_H

#include <stdbool.h>
#include <stddef.h>

#include "pkcs11.h"

/*
 * A hostile PKCS#11 module in parts: `lab-token.c` is the token and the places from which it attacks, the others hold what it tries.
 * README.md has the results. An attempt is one that has to fail and leaves the process going; an act is told by what the agent sees.
 */

#define ARMED 0x100000000000L
/* The directory that the profile lets it write to. */
#ifndef TOKENS
#define TOKENS "/var/lib/softhsm/tokens"
#endif

struct attempt {
  const char *name;
  long nr; /* a system call, unless `run` is there */
  long args[6];
  int (*run)(void); /* 0: it worked, else the errno */
};

/* Lists that end with a nameless attempt. */
extern const struct attempt process_attempts[], memory_attempts[], endpoint_attempts[], file_attempts[], kernel_attempts[],
    exhaustion_attempts[];

/* Every list; NULL after the last one. */
extern const struct attempt *const attempt_lists[];

/* Straight into the kernel: the result, or -errno. Has no frame of its own, because a vfork that works shares the stack with its child. */
static inline __attribute__((always_inline)) long enter_kernel(long nr, const long args[6]) {
  long result;
  register long r10 __asm__("r10") = args[3];
  register long r8 __asm__("r8") = args[4];
  register long r9 __asm__("r9") = args[5];
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(nr), "D"(args[0]), "S"(args[1]), "d"(args[2]), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}

/* 0 when it worked. What it gave is closed again; a child ends. */
int try_call(long nr, const long args[6]);
int try_attempt(const struct attempt *attempt);

/* Whether the profile opens this: a word of LAB_OPENS. */
bool is_opened(const char *word);

/* Kept open from the constructor on: what was written before ARM stays writable. */
extern int scratch_fd;

/* Runs the act of this name, if there is one. False: none. It may not come back. */
bool run_act(const char *name);
/* Answers all requests in the shim's stead, until the socket ends. */
void take_over(void);

#endif
