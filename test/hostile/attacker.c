/*
 * A PKCS#11 module that attacks the process it is loaded into: from its constructor, and from C_Sign, where the first
 * byte of the data chooses the attack and the signature carries the errno back (0 = the attack SUCCEEDED).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "module.h"

#define ARMED ((void *)0x100000000000UL)

static int tried, succeeded;

static void attack(long result) {
  tried++;
  if (result != -1) succeeded++;
}

static void attack_armed_filters(void) {
  attack(munmap(ARMED, 4096));
  attack(mprotect(ARMED, 4096, PROT_READ | PROT_WRITE));
  attack(madvise(ARMED, 4096, MADV_DONTNEED));
  attack((long)mmap(ARMED, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
  attack(munmap((char *)ARMED - 4096, 8192));
  attack(munmap((char *)ARMED - (1UL << 32) - 4096, (1UL << 32) + 8192));
  attack((long)syscall(SYS_mremap, ARMED, 4096, 8192, MREMAP_MAYMOVE));
}

static void attack_filters(void) {
  struct sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOENT)};
  struct sock_fprog program = {.len = 1, .filter = code};
  attack(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
  attack(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, ARMED));
  attack(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

__attribute__((constructor)) static void attack_at_load(void) {
  char byte = 0;
  struct iovec part = {&byte, 1};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  static char *argv[] = {"sh", "-c", "true", NULL};
  attack(syscall(SYS_execve, "/bin/sh", argv, NULL));
  attack(syscall(SYS_fork));
  attack(syscall(SYS_clone, CLONE_VM | CLONE_THREAD | CLONE_SIGHAND, NULL, NULL, NULL, NULL));
  attack(socket(AF_INET, SOCK_STREAM, 0));
  attack(socket(AF_UNIX, SOCK_STREAM, 0));
  attack(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
  attack(kill(getppid(), SIGTERM));
  attack(syscall(SYS_io_uring_setup, 1, NULL));
  attack(open("/etc/shadow", O_RDONLY));
  attack(open("/ironclaw-hostile", O_WRONLY | O_CREAT, 0600));
  attack(sendmsg(3, &message, 0));
  attack(recvmsg(3, &message, MSG_DONTWAIT));
  attack(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
  attack_armed_filters();
  attack_filters();
}

static CK_RV initialize(struct ck_initialize_args *args) { return args == NULL ? 7 : 0; }

static CK_RV get_info(struct ck_info *info) {
  memset(info->description, ' ', sizeof info->description);
  char text[33];
  int length = snprintf(text, sizeof text, "%d of %d succeeded", succeeded, tried);
  memcpy(info->description, text, (size_t)length);
  return 0;
}

static CK_RV get_token_info(CK_ULONG slot, struct ck_token_info *info) {
  memset(info, ' ', 96);
  return slot;
}

static CK_RV open_session(CK_ULONG slot, CK_ULONG flags, void *application, void *notify, CK_ULONG *session) {
  (void)application;
  (void)notify;
  *session = 1;
  return slot == 0 && flags == 4 ? 0 : 7;
}

static CK_RV login(CK_ULONG session, CK_ULONG user, CK_BYTE *pin, CK_ULONG length) {
  return session == 1 && user == 1 && pin[0] != 0 && length > 0 ? 0 : 0xA0;
}

static int searched;

static CK_RV find_objects_init(CK_ULONG session, struct ck_attribute *wanted, CK_ULONG count) {
  (void)session;
  searched = count == 1 && *(const CK_ULONG *)wanted->value == CKO_PRIVATE_KEY ? 0 : 1;
  return 0;
}

static CK_RV find_objects(CK_ULONG session, CK_ULONG *objects, CK_ULONG max, CK_ULONG *count) {
  (void)session;
  *count = max > 0 && searched++ == 0 ? 1 : 0;
  if (*count == 1) objects[0] = 7;
  return 0;
}

static CK_RV find_objects_final(CK_ULONG session) { return session == 1 ? 0 : 7; }

static CK_RV get_attribute_value(CK_ULONG session, CK_ULONG object, struct ck_attribute *wanted, CK_ULONG count) {
  CK_ULONG value = wanted->type == CKA_CLASS ? CKO_PRIVATE_KEY : 3;
  (void)session;
  if (object != 7 || count != 1) return 7;
  if (wanted->length == 1) value = 1;
  if (wanted->length > sizeof value) {
    wanted->length = (CK_ULONG)-1; /* as for an attribute that the object does not have */
    return 0x12;
  }
  memcpy(wanted->value, &value, wanted->length);
  return 0;
}

static CK_RV sign_init(CK_ULONG session, struct ck_mechanism *mechanism, CK_ULONG key) {
  return session == 1 && mechanism != NULL && key == 7 ? 0 : 7;
}

static long other_entry(int x32) {
  long result;
  if (x32) __asm__ volatile("syscall" : "=a"(result) : "a"(0x40000000L | SYS_getpid) : "rcx", "r11", "memory");
  else __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L) : "memory");
  return result;
}

/* Writable and executable at once: kept until after ARM, it would take new code without another call. */
static long writable_code(int by_mprotect) {
  const int all = PROT_READ | PROT_WRITE | PROT_EXEC;
  void *page = mmap(NULL, 4096, by_mprotect ? PROT_READ : all, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return by_mprotect ? mprotect(page, 4096, all) : (long)page;
}

static long new_code(int by_mprotect) {
  if (!by_mprotect) return (long)mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return page == MAP_FAILED ? 0 : mprotect(page, 4096, PROT_READ | PROT_EXEC);
}

static long flood(void) {
  long result = -1;
  for (int i = 0; i < 500; i++) result = socket(AF_INET, SOCK_STREAM, 0);
  return result;
}

/* Frames that no shim would send: a reply to nothing, and one that is too long. */
static long forge(int kind) {
  static const unsigned char nothing[] = {0, 0, 0, 13, 0, 0, 0xff, 0xff, 0x86, 0, 0, 0, 0, 0, 0, 0, 0};
  static const unsigned char endless[] = {0xff, 0xff, 0xff, 0xff};
  return kind == 0 ? write(3, nothing, sizeof nothing) : write(3, endless, sizeof endless);
}

static long attack_now(unsigned char which) {
  switch (which) {
    case 'm': return new_code(0);
    case 'p': return new_code(1);
    case 'M': return writable_code(0);
    case 'P': return writable_code(1);
    case 'w': return open("/ironclaw-hostile", O_WRONLY | O_CREAT, 0600);
    case 's': return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, (char *)ARMED + 16);
    case 'i': return other_entry(0);
    case 'x': return other_entry(1);
    case 'f': return flood();
    case 'n': return forge(0);
    case 'e': return forge(1);
    case 'h': for (;;) (void)pause();
    default: return 0;
  }
}

static CK_RV sign(CK_ULONG session, const CK_BYTE *data, CK_ULONG length, CK_BYTE *signature, CK_ULONG *signature_length) {
  if (session != 1 || length == 0) return 7;
  errno = 0;
  long result = attack_now(data[0]);
  if (data[0] == 'l') {
    *signature_length = 1UL << 40; /* a lie about the length */
    return 0;
  }
  signature[0] = result == -1 ? (CK_BYTE)errno : 0;
  *signature_length = 1;
  return 0;
}

__attribute__((visibility("default"))) CK_RV C_GetFunctionList(struct ck_function_list **list) {
  static struct ck_function_list functions = {
      .version = {2, 40},
      .initialize = initialize,
      .get_info = get_info,
      .get_slot_list = one_slot,
      .get_token_info = get_token_info,
      .open_session = open_session,
      .login = login,
      .get_attribute_value = get_attribute_value,
      .find_objects_init = find_objects_init,
      .find_objects = find_objects,
      .find_objects_final = find_objects_final,
      .sign_init = sign_init,
      .sign = sign,
  };
  *list = &functions;
  return 0;
}
