#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shim.h"

#ifndef __x86_64__
#error "profiles are compiled for x86_64 only"
#endif

struct attempt {
  const char *name;
  long nr;
  long args[6];
  uint8_t unless; /* not tried under a profile that opens any of these */
};

/*
 * Straight into the kernel, with no frame of its own: a vfork that succeeded would share the stack with its child.
 * Returns the result or -errno.
 */
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

static inline __attribute__((always_inline)) bool makes_process(long nr) {
  return nr == SYS_fork || nr == SYS_vfork || nr == SYS_clone || nr == SYS_clone3;
}

/* Returns 0 when the attempt SUCCEEDED, else the errno. A file descriptor that it gave is closed again. */
static uint32_t try_attempt(const struct attempt *attempt) {
  static const long leave[6] = {0};
  long result = enter_kernel(attempt->nr, attempt->args);
  if (result == 0 && makes_process(attempt->nr)) enter_kernel(SYS_exit, leave);
  if (result > 2 && !makes_process(attempt->nr)) (void)close((int)result);
  return result < 0 ? (uint32_t)-result : 0;
}

/* Arguments are chosen so that an attempt which no filter stops does no harm, or fails with something but EPERM. */
static size_t run_attempts(const struct attempt *attempts, size_t count, uint8_t opens, struct writer *out) {
  size_t tried = 0;
  for (size_t i = 0; i < count; i++) {
    if ((attempts[i].unless & opens) != 0) continue;
    uint32_t answer = try_attempt(&attempts[i]);
    write_sized16(out, attempts[i].name, strlen(attempts[i].name));
    write_u32(out, answer);
    tried++;
  }
  return tried;
}

#define RUN(list, opens, out) run_attempts(list, sizeof(list) / sizeof(list)[0], opens, out)

static size_t probe_processes(struct writer *out) {
  const struct attempt attempts[] = {
      {"execve", SYS_execve, {(long)"/"}, 0},
      {"execveat", SYS_execveat, {AT_FDCWD, (long)"/"}, 0},
      {"fork", SYS_fork, {0}, 0},
      {"vfork", SYS_vfork, {0}, 0},
      {"clone", SYS_clone, {SIGCHLD}, 0},
      {"clone3", SYS_clone3, {0}, 0},
      {"ptrace", SYS_ptrace, {PTRACE_TRACEME}, 0},
      {"process_vm_readv", SYS_process_vm_readv, {getpid()}, 0},
      {"process_vm_writev", SYS_process_vm_writev, {getpid()}, 0},
      {"pidfd_getfd", SYS_pidfd_getfd, {-1}, 0},
      {"kill", SYS_kill, {getpid(), 0}, 0},
  };
  return RUN(attempts, 0, out);
}

static size_t probe_endpoints(uint8_t opens, struct writer *out) {
  const struct attempt attempts[] = {
      {"socket AF_INET", SYS_socket, {AF_INET, SOCK_STREAM}, OPENS_INET},
      {"socket AF_INET6", SYS_socket, {AF_INET6, SOCK_STREAM}, OPENS_INET},
      {"socket AF_UNIX", SYS_socket, {AF_UNIX, SOCK_STREAM}, OPENS_UNIX},
      {"socket AF_NETLINK", SYS_socket, {AF_NETLINK, SOCK_RAW}, OPENS_NETLINK},
      {"socket AF_VSOCK", SYS_socket, {AF_VSOCK, SOCK_STREAM}, 0},
      {"socket AF_PACKET", SYS_socket, {AF_PACKET, SOCK_RAW}, 0},
      {"datagram AF_INET", SYS_socket, {AF_INET, SOCK_DGRAM}, 0},
      {"datagram AF_INET6", SYS_socket, {AF_INET6, SOCK_DGRAM}, 0},
      {"datagram AF_UNIX", SYS_socket, {AF_UNIX, SOCK_DGRAM}, 0},
      {"socketpair", SYS_socketpair, {AF_UNIX, SOCK_STREAM}, 0},
      {"connect", SYS_connect, {REQUEST_FD}, OPENS_INET | OPENS_UNIX},
      {"bind", SYS_bind, {REQUEST_FD}, OPENS_NETLINK},
      {"listen", SYS_listen, {REQUEST_FD}, 0},
      {"accept4", SYS_accept4, {REQUEST_FD}, 0},
      {"sendmsg", SYS_sendmsg, {REQUEST_FD}, 0},
      {"recvmsg", SYS_recvmsg, {REQUEST_FD}, 0},
  };
  return RUN(attempts, opens, out);
}

static size_t probe_kernel(struct writer *out) {
  const struct attempt attempts[] = {
      {"io_uring_setup", SYS_io_uring_setup, {1}, 0},
      {"bpf", SYS_bpf, {0}, 0},
      {"userfaultfd", SYS_userfaultfd, {0}, 0},
      {"keyctl", SYS_keyctl, {0}, 0},
      {"add_key", SYS_add_key, {0}, 0},
      {"mount", SYS_mount, {0}, 0},
      {"unshare", SYS_unshare, {0}, 0},
      {"setns", SYS_setns, {-1}, 0},
      {"memfd_create", SYS_memfd_create, {(long)"probe"}, 0},
      {"perf_event_open", SYS_perf_event_open, {0}, 0},
      {"seccomp", SYS_seccomp, {SECCOMP_SET_MODE_FILTER}, 0},
      {"prctl PR_SET_SECCOMP", SYS_prctl, {PR_SET_SECCOMP, SECCOMP_MODE_FILTER}, 0},
  };
  return RUN(attempts, 0, out);
}

static size_t probe_files(const struct shim *shim, struct writer *out) {
  const struct attempt attempts[] = {
      {"open /etc/shadow", SYS_openat, {AT_FDCWD, (long)"/etc/shadow", O_RDONLY}, 0},
      {"open /proc/1/mem", SYS_openat, {AT_FDCWD, (long)"/proc/1/mem", O_RDWR}, 0},
      {"write /", SYS_openat, {AT_FDCWD, (long)"/ironclaw-probe", O_WRONLY | O_CREAT | O_EXCL, 0600}, 0},
      {"mprotect armed filters", SYS_mprotect, {(long)shim->confinement.armed, 1, PROT_READ | PROT_WRITE}, 0},
  };
  return RUN(attempts, 0, out);
}

CK_RV op_probe(struct shim *shim, struct reader *in, struct writer *out) {
  expect_end(in);
  if (shim->phase != PHASE_FRESH) return CKR_FUNCTION_NOT_SUPPORTED;
  size_t at = out->length, count = 0;
  write_u16(out, 0);
  count += probe_processes(out);
  count += probe_endpoints(shim->confinement.opens, out);
  count += probe_kernel(out);
  count += probe_files(shim, out);
  patch_u16(out, at, (uint16_t)count);
  return CKR_OK;
}
