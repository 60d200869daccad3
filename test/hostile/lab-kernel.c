/* The kernel itself: other ways in, privileges, namespaces, keys, timers, limits. */
#include <errno.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "lab.h"

static long numbers[16];
static struct rlimit more = {RLIM_INFINITY, RLIM_INFINITY};
static struct itimerval soon = {{0, 0}, {0, 1000}};
static struct { unsigned version; int pid; } capability_header = {0x20080522, 0};
static struct { unsigned effective, permitted, inheritable; } capabilities[2] = {{~0U, ~0U, 0}, {~0U, ~0U, 0}};

static int every_keyctl(void) {
  for (long operation = 0; operation < 64; operation++) {
    int error = try_call(SYS_keyctl, (const long[6]){operation, KEY_SPEC_SESSION_KEYRING});
    if (error != EPERM) return error;
  }
  return EPERM;
}

/* All but PR_SET_NAME, which the profile allows while the library is loaded. */
static int every_prctl(void) {
  for (long option = 0; option < 128; option++) {
    int error = option == PR_SET_NAME ? EPERM : try_call(SYS_prctl, (const long[6]){option, 1});
    if (error != EPERM) return error;
  }
  return EPERM;
}

static bool is_allowed(const char *bitmap, unsigned number) {
  size_t digit = number / 4;
  if (digit >= strlen(bitmap)) return false;
  char hex[2] = {bitmap[digit], 0};
  return (strtoul(hex, NULL, 16) >> (number % 4) & 1) != 0;
}

/* 335 and 336 are calls of the kernel's own probes: newer kernels let them pass every filter, and end whoever else makes them. */
static bool is_probe(unsigned number) { return number == 335 || number == 336; }

/* LAB_ALLOWED: a bit for each number that has a rule, the lowest first, four to a hexadecimal digit. */
static int every_other_call(void) {
  const char *bitmap = getenv("LAB_ALLOWED");
  if (bitmap == NULL) return EINVAL;
  for (unsigned number = 0; number < 1024; number++) {
    int error = is_allowed(bitmap, number) || is_probe(number) ? EPERM : try_call(number, (const long[6]){0});
    /* a profile that opens threads says of clone3 that there is none */
    if (error != EPERM && !(error == ENOSYS && number == SYS_clone3)) return error;
  }
  return EPERM;
}

const struct attempt kernel_attempts[] = {
    {"every system call without a rule, numbers 0 to 1023", 0, {0}, every_other_call},
    {"io_uring_setup", SYS_io_uring_setup, {8, (long)numbers}, NULL},
    {"io_uring_enter", SYS_io_uring_enter, {3, 1}, NULL},
    {"io_uring_register", SYS_io_uring_register, {3}, NULL},
    {"bpf", SYS_bpf, {5, (long)numbers, sizeof numbers}, NULL},
    {"perf_event_open", SYS_perf_event_open, {(long)numbers, 0, -1, -1}, NULL},
    {"keyctl, operations 0 to 63", 0, {0}, every_keyctl},
    {"add_key", SYS_add_key, {(long)"user", (long)"lab", (long)"x", 1, KEY_SPEC_SESSION_KEYRING}, NULL},
    {"request_key", SYS_request_key, {(long)"user", (long)"lab"}, NULL},
    {"unshare of a user namespace", SYS_unshare, {CLONE_NEWUSER}, NULL},
    {"unshare of the network", SYS_unshare, {CLONE_NEWNET}, NULL},
    {"setns", SYS_setns, {3}, NULL},
    {"mount", SYS_mount, {(long)"proc", (long)TOKENS, (long)"proc"}, NULL},
    {"umount2", SYS_umount2, {(long)TOKENS, 2}, NULL},
    {"pivot_root", SYS_pivot_root, {(long)".", (long)"."}, NULL},
    {"open_tree", SYS_open_tree, {-100, (long)"/", 1}, NULL},
    {"move_mount", SYS_move_mount, {3, (long)""}, NULL},
    {"fsopen", SYS_fsopen, {(long)"proc"}, NULL},
    {"mount_setattr", SYS_mount_setattr, {-100, (long)"/"}, NULL},
    {"init_module", SYS_init_module, {(long)numbers, sizeof numbers, (long)""}, NULL},
    {"finit_module", SYS_finit_module, {3, (long)""}, NULL},
    {"kexec_load", SYS_kexec_load, {0}, NULL},
    {"setuid 0", SYS_setuid, {0}, NULL},
    {"setresuid 0", SYS_setresuid, {0}, NULL},
    {"setgroups", SYS_setgroups, {0}, NULL},
    {"capset", SYS_capset, {(long)&capability_header, (long)capabilities}, NULL},
    {"setsid", SYS_setsid, {0}, NULL},
    {"sethostname", SYS_sethostname, {(long)"x", 1}, NULL},
    {"prctl, options 0 to 127 but the name", 0, {0}, every_prctl},
    {"prctl PR_SET_DUMPABLE", SYS_prctl, {PR_SET_DUMPABLE, 1}, NULL},
    {"prctl PR_SET_PTRACER", SYS_prctl, {PR_SET_PTRACER, -1}, NULL},
    {"prctl PR_SET_PDEATHSIG", SYS_prctl, {PR_SET_PDEATHSIG, 0}, NULL},
    {"arch_prctl", SYS_arch_prctl, {0x1002, 0}, NULL},
    {"modify_ldt", SYS_modify_ldt, {1, (long)numbers, 16}, NULL},
    {"iopl", SYS_iopl, {3}, NULL},
    {"ioperm", SYS_ioperm, {0x80, 1, 1}, NULL},
    {"syslog", SYS_syslog, {3, (long)numbers, sizeof numbers}, NULL},
    {"clock_settime", SYS_clock_settime, {0, (long)numbers}, NULL},
    {"setrlimit", SYS_setrlimit, {RLIMIT_AS, (long)&more}, NULL},
    {"prlimit64", SYS_prlimit64, {0, RLIMIT_NOFILE, (long)&more}, NULL},
    {"setpriority", SYS_setpriority, {0, 0, -20}, NULL},
    {"sched_setscheduler", SYS_sched_setscheduler, {0, 1, (long)numbers}, NULL},
    {"sched_setaffinity", SYS_sched_setaffinity, {0, sizeof numbers, (long)numbers}, NULL},
    {"alarm", SYS_alarm, {1}, NULL},
    {"setitimer", SYS_setitimer, {ITIMER_REAL, (long)&soon}, NULL},
    {"timer_create", SYS_timer_create, {0, 0, (long)numbers}, NULL},
    {"timerfd_create", SYS_timerfd_create, {0}, NULL},
    {"sigaltstack", SYS_sigaltstack, {0}, NULL},
    {NULL, 0, {0}, NULL},
};
