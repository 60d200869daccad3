#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shim.h"

/* The header's struct is older than some kernels: members that a kernel does not know must be zero. */
struct ruleset_attr { uint64_t fs, net, scoped; };
struct path_attr { uint64_t access; int32_t fd; } __attribute__((packed));

enum { NET_BIND_TCP = 1, NET_ALL = 3, SCOPE_ALL = 3 };

#define FS_READ_FILE (1ULL << 2)
#define FS_READ_DIR (1ULL << 3)
#define FS_WRITE_FILE (1ULL << 1)
#define FS_REMOVE_FILE (1ULL << 5)
#define FS_MAKE_REG (1ULL << 8)
#define FS_TRUNCATE (1ULL << 14)
#define FS_IOCTL_DEV (1ULL << 15)
#define FS_OF_FILES (FS_READ_FILE | FS_WRITE_FILE | FS_TRUNCATE | FS_IOCTL_DEV)

static void limit_resources(const struct profile *profile) {
  for (size_t i = 0; i < profile->limit_count; i++) {
    struct rlimit now;
    int resource = profile->limits[i].resource;
    if (getrlimit(resource, &now) != 0) fail(EXIT_ENVIRONMENT, "getrlimit");
    if (profile->limits[i].value < now.rlim_max) now.rlim_max = profile->limits[i].value;
    now.rlim_cur = now.rlim_max;
    if (setrlimit(resource, &now) != 0) fail(EXIT_ENVIRONMENT, "setrlimit");
  }
}

/* Every file-system right that this kernel knows, so that what no rule grants is denied. */
static uint64_t handled_fs(int abi) {
  uint64_t rights = (1ULL << 13) - 1;
  if (abi >= 2) rights |= 1ULL << 13; /* REFER */
  if (abi >= 3) rights |= FS_TRUNCATE;
  if (abi >= 5) rights |= FS_IOCTL_DEV;
  return rights;
}

static uint64_t granted_fs(uint8_t access) {
  uint64_t rights = FS_READ_FILE | FS_READ_DIR;
  if (access == ACCESS_WRITE) rights |= FS_WRITE_FILE | FS_REMOVE_FILE | FS_MAKE_REG | FS_TRUNCATE;
  if (access == ACCESS_DEVICE) rights |= FS_WRITE_FILE | FS_IOCTL_DEV;
  return rights;
}

static void add_rule(int ruleset, const struct path_rule *rule, uint64_t handled) {
  int fd = open(rule->path, O_PATH | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT && rule->access != ACCESS_READ) return; /* this root lacks it: nothing is granted */
  struct stat info;
  if (fd < 0 || fstat(fd, &info) != 0) fail(EXIT_ENVIRONMENT, "landlock path");
  uint64_t access = granted_fs(rule->access);
  if (!S_ISDIR(info.st_mode)) access &= FS_OF_FILES;
  struct path_attr attr = {.access = access & handled, .fd = fd};
  if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &attr, 0) != 0) {
    fail(EXIT_ENVIRONMENT, "landlock rule");
  }
  if (close(fd) != 0) fail(EXIT_ENVIRONMENT, "close landlock path");
}

static int restrict_files(const struct profile *profile) {
  int abi = (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
  if (abi < 1) fail(EXIT_ENVIRONMENT, "landlock is missing");
  /* in the shim's network namespace nobody but the relay listens, on ports that no profile knows */
  uint64_t net = (profile->opens & OPENS_INET) != 0 ? NET_BIND_TCP : NET_ALL;
  struct ruleset_attr attr = {.fs = handled_fs(abi), .net = abi >= 4 ? net : 0, .scoped = abi >= 6 ? SCOPE_ALL : 0};
  int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
  if (ruleset < 0) fail(EXIT_ENVIRONMENT, "landlock ruleset");
  for (size_t i = 0; i < profile->rule_count; i++) add_rule(ruleset, &profile->rules[i], attr.fs);
  if (syscall(SYS_landlock_restrict_self, ruleset, 0) != 0) fail(EXIT_ENVIRONMENT, "landlock restrict");
  if (close(ruleset) != 0) fail(EXIT_ENVIRONMENT, "close landlock ruleset");
  return abi;
}

static size_t armed_offset(enum filter filter) {
  return filter == FILTER_LOCK ? 0 : sizeof(struct sock_fprog);
}

/* Lays the later filters out in pages that nobody can write: { lock fprog, serve fprog, lock code, serve code }. */
static uint8_t *arm_filters(const struct profile *profile) {
  const struct program *lock = &profile->programs[FILTER_LOCK], *late = &profile->programs[FILTER_SERVE];
  size_t lock_size = lock->length * sizeof *lock->code, late_size = late->length * sizeof *late->code;
  size_t size = 2 * sizeof(struct sock_fprog) + lock_size + late_size;
  uint8_t *base = (uint8_t *)((uintptr_t)profile->armed_high << 32);
  uint8_t *armed =
      mmap(base, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (armed != base) fail(EXIT_ENVIRONMENT, "map the armed filters");
  uint8_t *code = armed + 2 * sizeof(struct sock_fprog);
  struct sock_fprog programs[2] = {
      {.len = lock->length, .filter = (struct sock_filter *)code},
      {.len = late->length, .filter = (struct sock_filter *)(code + lock_size)},
  };
  memcpy(armed, programs, sizeof programs);
  memcpy(code, lock->code, lock_size);
  memcpy(code + lock_size, late->code, late_size);
  if (mprotect(armed, size, PROT_READ) != 0) fail(EXIT_ENVIRONMENT, "protect the armed filters");
  return armed;
}

int confine(const struct profile *profile, struct confinement *confinement) {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) fail(EXIT_ENVIRONMENT, "no_new_privs");
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) fail(EXIT_ENVIRONMENT, "dumpable");
  limit_resources(profile);
  confinement->opens = profile->opens;
  confinement->armed = arm_filters(profile);
  confinement->landlock_abi = restrict_files(profile);
  const struct program *first = &profile->programs[FILTER_LOAD];
  struct sock_fprog program = {.len = first->length, .filter = first->code};
  int notifier =
      (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
  if (notifier < 0) fail(EXIT_ENVIRONMENT, "seccomp");
  confinement->filters = 1;
  return notifier;
}

int confine_more(struct confinement *confinement, enum filter filter) {
  const uint8_t *program = confinement->armed + armed_offset(filter);
  /* by the time of the serve filter the library may have threads, and none may keep the wider one */
  long flags = filter == FILTER_SERVE ? SECCOMP_FILTER_FLAG_TSYNC : 0;
  long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, program);
  if (result != 0) return result < 0 ? errno : EBUSY; /* a positive one is a thread that cannot take it */
  confinement->filters++;
  return 0;
}
