/* Code that was not measured, and the filters that wait in their own pages. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lab.h"

enum { PAGE = 4096, ALL = PROT_READ | PROT_WRITE | PROT_EXEC, ANONYMOUS = MAP_PRIVATE | MAP_ANONYMOUS };

static struct sock_filter answer_quietly[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOENT)};
static struct sock_fprog own_filter = {1, answer_quietly};

/* mov eax, 7; ret */
static const unsigned char code[] = {0xb8, 7, 0, 0, 0, 0xc3};

static int map_all(void) {
  void *page = mmap(NULL, PAGE, ALL, ANONYMOUS, -1, 0);
  return page == MAP_FAILED ? errno : munmap(page, PAGE);
}

static int change(int before, int after) {
  void *page = mmap(NULL, PAGE, before, ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return errno;
  int error = mprotect(page, PAGE, after) == 0 ? 0 : errno;
  (void)munmap(page, PAGE);
  return error;
}

static int become_all(void) { return change(PROT_READ, ALL); }
static int become_writable_code(void) { return change(PROT_READ | PROT_EXEC, ALL); }

static int map_code(void) {
  void *page = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, ANONYMOUS, -1, 0);
  return page == MAP_FAILED ? errno : munmap(page, PAGE);
}

/* Writes code first and runs it then: what a compiler in the library would do. */
static int run_new_code(void) {
  void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return errno;
  memcpy(page, code, sizeof code);
  int error = mprotect(page, PAGE, PROT_READ | PROT_EXEC) == 0 ? 0 : errno;
  int (*made)(void);
  memcpy(&made, &page, sizeof made);
  if (error == 0 && made() != 7) error = EFAULT;
  (void)munmap(page, PAGE);
  return error;
}

/* Text of its own, changed in place. */
static int patch_text(void) {
  char *page = (char *)((unsigned long)&map_all & ~(unsigned long)(PAGE - 1));
  if (mprotect(page, PAGE, PROT_READ | PROT_EXEC) != 0) return errno;
  return mprotect(page, PAGE, ALL) == 0 ? 0 : errno;
}

static int map_file_as_code(const char *path, int flags) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  void *page = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, flags, fd, 0);
  int error = page == MAP_FAILED ? errno : munmap(page, PAGE);
  (void)close(fd);
  return error;
}

/* Two views of one file, one to write and one to run: it would take new code at any time. */
static int map_writable_file_as_code(void) { return map_file_as_code(TOKENS "/scratch", MAP_SHARED); }
static int map_measured_file_as_code(void) { return map_file_as_code("/lab/module.so", MAP_PRIVATE); }

static int map_below_armed(void) {
  void *page = mmap((void *)(ARMED - (1L << 32)), PAGE, PROT_READ, ANONYMOUS | MAP_FIXED, -1, 0);
  return page == MAP_FAILED ? errno : munmap(page, PAGE);
}

const struct attempt memory_attempts[] = {
    {"memory that is writable and executable", 0, {0}, map_all},
    {"memory made writable and executable", 0, {0}, become_all},
    {"code made writable", 0, {0}, become_writable_code},
    {"its own code made writable", 0, {0}, patch_text},
    {"new executable memory", 0, {0}, map_code},
    {"code that it wrote itself", 0, {0}, run_new_code},
    {"a file that it writes, mapped as code", 0, {0}, map_writable_file_as_code},
    {"a measured file, mapped as code again", 0, {0}, map_measured_file_as_code},
    {"memory at an address with bit 63", SYS_mmap, {ARMED | (long)(1UL << 63), PAGE, PROT_READ, ANONYMOUS | MAP_FIXED, -1}, NULL},
    {"READ_IMPLIES_EXEC", SYS_personality, {READ_IMPLIES_EXEC}, NULL},
    {"pkey_mprotect", SYS_pkey_mprotect, {ARMED, PAGE, ALL, -1}, NULL},
    {"remap_file_pages", SYS_remap_file_pages, {ARMED, PAGE}, NULL},
    {"map_shadow_stack", 453, {0, PAGE}, NULL},
    {"mseal", 462, {ARMED, PAGE}, NULL},
    {"memfd_create", SYS_memfd_create, {(long)"code", 0}, NULL},
    {"memfd_secret", 447, {0}, NULL},
    {"shmget", SYS_shmget, {0, PAGE, 0600}, NULL},
    {"shmat as code", SYS_shmat, {0, 0, 0100000}, NULL},
    {"userfaultfd", SYS_userfaultfd, {1}, NULL},
    {"munmap of the armed filters", SYS_munmap, {ARMED, PAGE}, NULL},
    {"munmap from below the armed filters", SYS_munmap, {ARMED - PAGE, 2 * PAGE}, NULL},
    {"munmap over the guard before the armed filters", SYS_munmap, {ARMED - (1L << 32) - PAGE, (1L << 32) + 2 * PAGE}, NULL},
    {"munmap of everything", SYS_munmap, {0, 0x7ffffffff000}, NULL},
    {"mprotect of the armed filters", SYS_mprotect, {ARMED, PAGE, PROT_READ | PROT_WRITE}, NULL},
    {"mprotect that grows down from the armed filters", SYS_mprotect, {ARMED, PAGE, PROT_READ | PROT_WRITE | 0x01000000}, NULL},
    {"madvise that empties the armed filters", SYS_madvise, {ARMED, PAGE, MADV_DONTNEED}, NULL},
    {"mmap over the armed filters", SYS_mmap, {ARMED, PAGE, PROT_READ | PROT_WRITE, ANONYMOUS | MAP_FIXED, -1}, NULL},
    {"mmap in the guard before the armed filters", 0, {0}, map_below_armed},
    {"mremap of the armed filters", SYS_mremap, {ARMED, PAGE, 2 * PAGE, MREMAP_MAYMOVE}, NULL},
    {"mremap onto the armed filters", SYS_mremap, {0x7f0000000000, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, ARMED}, NULL},
    {"a seccomp filter of its own", SYS_seccomp, {SECCOMP_SET_MODE_FILTER, 0, (long)&own_filter}, NULL},
    {"a seccomp listener of its own", SYS_seccomp, {SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, (long)&own_filter}, NULL},
    {"seccomp strict mode", SYS_seccomp, {SECCOMP_SET_MODE_STRICT}, NULL},
    {"the lock filter once more", SYS_seccomp, {SECCOMP_SET_MODE_FILTER, 0, ARMED}, NULL},
    {"the serve filter for one thread", SYS_seccomp, {SECCOMP_SET_MODE_FILTER, 0, ARMED + 16}, NULL},
    {"the serve filter with a listener", SYS_seccomp, {SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, ARMED + 16}, NULL},
    {"a filter by prctl", SYS_prctl, {PR_SET_SECCOMP, SECCOMP_MODE_FILTER, (long)&own_filter}, NULL},
    {"landlock_create_ruleset", SYS_landlock_create_ruleset, {0, 0, 1}, NULL},
    {"landlock_restrict_self", SYS_landlock_restrict_self, {3}, NULL},
    {NULL, 0, {0}, NULL},
};
