/* New programs, new processes and threads, and other processes: their memory, their descriptors, signals to them. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lab.h"

static char *const arguments[] = {(char *)"shim", NULL};
static struct iovec place = {(void *)arguments, sizeof arguments};
static siginfo_t info;

enum { NEIGHBOURS = 64 };

/* The errno of them all, 0 when one worked, or of the first that failed otherwise. */
static int each_process(long nr, const long args[6], int which) {
  int usual = 0;
  for (long pid = 0; pid <= NEIGHBOURS; pid++) {
    long call[6];
    for (int i = 0; i < 6; i++) call[i] = i == which ? pid : args[i];
    int error = try_call(nr, call);
    if (error == 0) return 0;
    if (usual == 0) usual = error;
    if (error != usual) return error;
  }
  return usual;
}

static int spawn_program(void) {
  pid_t pid;
  return posix_spawn(&pid, "/shim", NULL, NULL, arguments, NULL);
}

static int run_shell(void) {
  errno = 0;
  /* 127 as exit status stands for a shell that could not be started */
  int status = system("exit 0");
  return status == 0 ? 0 : errno != 0 ? errno : ECHILD;
}

static int open_pipe_to_program(void) {
  FILE *stream = popen("true", "r");
  if (stream == NULL) return errno;
  (void)pclose(stream);
  return 0;
}

static int execute_descriptor(void) {
  int fd = open("/shim", O_PATH | O_CLOEXEC);
  if (fd < 0) return errno;
  int error = try_call(SYS_execveat, (const long[6]){fd, (long)"", (long)arguments, 0, AT_EMPTY_PATH});
  (void)close(fd);
  return error;
}

static void *idle(void *argument) { return argument; }

static int make_thread(void) {
  pthread_t thread;
  int error = pthread_create(&thread, NULL, idle, NULL);
  return error != 0 ? error : pthread_join(thread, NULL);
}

static int daemonize(void) { return daemon(1, 1) == 0 ? 0 : errno; }

static int read_neighbours(void) {
  return each_process(SYS_process_vm_readv, (const long[6]){0, (long)&place, 1, (long)&place, 1}, 0);
}
static int write_neighbours(void) {
  return each_process(SYS_process_vm_writev, (const long[6]){0, (long)&place, 1, (long)&place, 1}, 0);
}
static int attach_neighbours(void) { return each_process(SYS_ptrace, (const long[6]){PTRACE_ATTACH}, 1); }
static int seize_neighbours(void) { return each_process(SYS_ptrace, (const long[6]){PTRACE_SEIZE}, 1); }
static int open_neighbours(void) { return each_process(SYS_pidfd_open, (const long[6]){0}, 0); }
static int signal_neighbours(void) { return each_process(SYS_kill, (const long[6]){0, SIGKILL}, 0); }

static int open_memory(const char *format) {
  char path[64];
  for (int pid = 0; pid <= NEIGHBOURS; pid++) {
    (void)snprintf(path, sizeof path, format, pid);
    int error = try_call(SYS_openat, (const long[6]){AT_FDCWD, (long)path, O_RDONLY});
    if (error != ENOENT) return error;
  }
  return ENOENT;
}

static int open_memories(void) { return open_memory("/proc/%d/mem"); }
static int open_environments(void) { return open_memory("/proc/%d/environ"); }
static int open_roots(void) { return open_memory("/proc/%d/root/etc/shadow"); }

const struct attempt process_attempts[] = {
    {"execve of a program that is there", SYS_execve, {(long)"/shim", (long)arguments}, NULL},
    {"execve of a shell", SYS_execve, {(long)"/bin/sh", (long)arguments}, NULL},
    {"execve of itself", SYS_execve, {(long)"/lab/module.so", (long)arguments}, NULL},
    {"execveat of an open program", 0, {0}, execute_descriptor},
    {"fork", SYS_fork, {0}, NULL},
    {"vfork", SYS_vfork, {0}, NULL},
    {"clone of a process", SYS_clone, {SIGCHLD}, NULL},
    {"clone that shares the memory", SYS_clone, {CLONE_VM | CLONE_VFORK | SIGCHLD}, NULL},
    {"clone into new namespaces", SYS_clone, {CLONE_NEWUSER | CLONE_NEWNET | SIGCHLD}, NULL},
    {"clone3", SYS_clone3, {0}, NULL},
    {"posix_spawn", 0, {0}, spawn_program},
    {"system", 0, {0}, run_shell},
    {"popen", 0, {0}, open_pipe_to_program},
    {"daemon", 0, {0}, daemonize},
    {"a thread (pthread_create)", 0, {0}, make_thread},
    {"a thread (raw clone)", SYS_clone, {CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM}, NULL},
    {"ptrace of itself by its parent", SYS_ptrace, {PTRACE_TRACEME}, NULL},
    {"ptrace attach, every process", 0, {0}, attach_neighbours},
    {"ptrace seize, every process", 0, {0}, seize_neighbours},
    {"process_vm_readv, every process", 0, {0}, read_neighbours},
    {"process_vm_writev, every process", 0, {0}, write_neighbours},
    {"/proc/N/mem, every process", 0, {0}, open_memories},
    {"/proc/N/environ, every process", 0, {0}, open_environments},
    {"/proc/N/root, every process", 0, {0}, open_roots},
    {"pidfd_open, every process", 0, {0}, open_neighbours},
    {"pidfd_getfd", SYS_pidfd_getfd, {3, 0}, NULL},
    {"pidfd_send_signal", SYS_pidfd_send_signal, {3, SIGKILL}, NULL},
    {"process_madvise", SYS_process_madvise, {3, (long)&place, 1, 4}, NULL},
    {"move_pages of its parent", SYS_move_pages, {0}, NULL},
    {"kcmp", SYS_kcmp, {1, 1}, NULL},
    {"kill, every process", 0, {0}, signal_neighbours},
    {"kill of all processes", SYS_kill, {-1, SIGKILL}, NULL},
    {"tkill", SYS_tkill, {1, SIGTERM}, NULL},
    {"tgkill", SYS_tgkill, {1, 1, SIGTERM}, NULL},
    {"rt_sigqueueinfo", SYS_rt_sigqueueinfo, {1, SIGTERM, (long)&info}, NULL},
    {"rt_tgsigqueueinfo", SYS_rt_tgsigqueueinfo, {1, 1, SIGTERM, (long)&info}, NULL},
    {NULL, 0, {0}, NULL},
};
