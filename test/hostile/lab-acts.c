/* What is told by what the agent sees: an answer, the end of the shim, or nothing. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lab.h"

enum { REQUESTS = 3, CREDENTIALS = 4, FLOOD = 100000 };

static void sleep_for_ever(void) {
  struct timespec day = {86400, 0};
  for (;;) (void)nanosleep(&day, NULL);
}

static void spin(void) {
  for (;;) __asm__ volatile("pause");
}

static void leave(void) { exit(0); }
static void leave_at_once(void) { _exit(9); }
static void leave_thread(void) { (void)enter_kernel(SYS_exit, (const long[6]){0}); }
static void leave_pthread(void) { pthread_exit(NULL); }
static void give_up(void) { abort(); }
static void write_nowhere(void) { __asm__ volatile("movl $1, 16" ::: "memory"); }
static void write_armed(void) { *(volatile char *)ARMED = 1; }
static void write_own_text(void) { *(volatile char *)(unsigned long)&write_own_text = 0; }
static void illegal(void) { __asm__ volatile("ud2"); }
static void privileged(void) { __asm__ volatile("hlt"); }
static void port(void) { __asm__ volatile("outb %%al, $0x80" ::"a"(0)); }

static int deeper(volatile long *left) {
  volatile long frame[512];
  frame[0] = *left - 1;
  return frame[0] == 0 ? 0 : deeper(frame) + (int)frame[0];
}
static void overflow_stack(void) {
  volatile long levels = 1L << 40;
  (void)deeper(&levels);
}

static void enter_by_int80(void) { __asm__ volatile("int $0x80" ::"a"(20L) : "memory"); }
static void enter_by_x32(void) { (void)enter_kernel(0x40000000L | SYS_getpid, (const long[6]){0}); }
static void enter_by_x32_socket(void) { (void)enter_kernel(0x40000000L | SYS_socket, (const long[6]){2, 1}); }
static void enter_by_sysenter(void) { __asm__ volatile("mov %%rsp, %%rbp; sysenter" ::"a"(20L) : "memory", "rcx", "rdx"); }
/* getcpu in the page at the top of the address space, which needs no `syscall` of its own. */
static void enter_by_vsyscall(void) { ((long (*)(void *, void *, void *))0xffffffffff600800UL)(NULL, NULL, NULL); }

/* Those of the kernel's probes, see lab-kernel.c. */
static void enter_by_uretprobe(void) { (void)enter_kernel(335, (const long[6]){0}); }
static void enter_by_uprobe(void) { (void)enter_kernel(336, (const long[6]){0}); }

static void close_requests(void) { (void)close(REQUESTS); }
static void close_everything(void) {
  for (int fd = 0; fd < 256; fd++) (void)close(fd);
}
/* The lowest free descriptor is 3 then: replies go to a file. */
static void swap_requests(void) {
  (void)close(REQUESTS);
  (void)open("/shim", O_RDONLY);
}

static void say(const void *bytes, size_t length) {
  if (write(REQUESTS, bytes, length) < 0) _exit(8);
}

static void answer_nothing(void) {
  static const unsigned char frame[] = {0, 0, 0, 13, 0, 0, 0xff, 0xff, 0x86, 0, 0, 0, 0, 0, 0, 0, 0};
  say(frame, sizeof frame);
}
static void answer_without_end(void) { say("\xff\xff\xff\xff", 4); }
static void answer_too_short(void) { say("\0\0\0\1x", 5); }
static void answer_half(void) {
  say("\0\1\0\0half", 8);
  sleep_for_ever();
}
static void answer_zeros(void) {
  static const char zeros[65536];
  for (int i = 0; i < 256; i++) say(zeros, sizeof zeros);
}
/* As a READY it would bring a listener; as anything else it answers a question that was asked before this library was loaded. */
static void say_ready_again(void) {
  static const unsigned char frame[] = {0, 0, 0, 18, 0, 0, 0, 0, 0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 1};
  say(frame, sizeof frame);
}
/* The request before the one that is being answered. */
static void answer_twice(void) {
  static const unsigned char frame[] = {0, 0, 0, 13, 0, 0, 0, 1, 0x83, 0, 0, 0, 0, 0, 0, 0, 0};
  say(frame, sizeof frame);
}
static void answer_as_another_op(void) {
  unsigned char frame[] = {0, 0, 0, 13, 0, 0, 0, 0, 0x87, 0, 0, 0, 0, 0, 0, 0, 0};
  for (unsigned id = 1; id < 16; id++) {
    frame[7] = (unsigned char)id;
    say(frame, sizeof frame);
  }
}

/* The PIN before its time; what was taken is missing for C_Login. */
static void take_pin(void) {
  char bytes[256];
  struct pollfd waiting = {.fd = CREDENTIALS, .events = POLLIN};
  if (poll(&waiting, 1, 0) == 1 && read(CREDENTIALS, bytes, sizeof bytes) < 0) _exit(8);
}

static jmp_buf gone;
static __attribute__((noinline)) int remember(void) { return setjmp(gone); }
static void jump_out(void) {
  if (remember() == 0) longjmp(gone, 1);
}

static void again(int number) { (void)number; }
static void survive_signals(void) {
  struct sigaction action = {.sa_handler = again, .sa_flags = SA_NODEFER | SA_RESTART};
  sigset_t all;
  for (int number = 1; number < NSIG; number++) (void)sigaction(number, &action, NULL);
  (void)sigfillset(&all);
  (void)sigprocmask(SIG_SETMASK, &all, NULL);
  sleep_for_ever();
}
static void survive_crash(void) {
  struct sigaction action = {.sa_handler = again, .sa_flags = SA_NODEFER};
  (void)sigaction(SIGSEGV, &action, NULL);
  write_nowhere();
}

static void flood(void) {
  for (int i = 0; i < FLOOD; i++) (void)enter_kernel(SYS_socket, (const long[6]){2, 1});
}
static void flood_for_ever(void) {
  for (;;) (void)enter_kernel(SYS_socket, (const long[6]){2, 1});
}

/* SECCOMP_SET_MODE_FILTER with SECCOMP_FILTER_FLAG_TSYNC */
static void arm_early(void) { (void)enter_kernel(SYS_seccomp, (const long[6]){1, 1, ARMED + 16}); }

static const struct act { const char *name; void (*run)(void); } acts[] = {
    {"sleeps for ever", sleep_for_ever}, {"spins for ever", spin}, {"exit", leave}, {"_exit", leave_at_once},
    {"ends its only thread", leave_thread}, {"pthread_exit", leave_pthread}, {"abort", give_up},
    {"writes to no memory", write_nowhere}, {"writes to the armed filters", write_armed}, {"writes over its own code", write_own_text},
    {"an illegal instruction", illegal}, {"a privileged instruction", privileged}, {"a port of the machine", port},
    {"overflows the stack", overflow_stack}, {"longjmp to a frame that is gone", jump_out},
    {"int 0x80", enter_by_int80}, {"x32 getpid", enter_by_x32}, {"x32 socket", enter_by_x32_socket}, {"sysenter", enter_by_sysenter},
    {"the vsyscall page", enter_by_vsyscall}, {"uretprobe", enter_by_uretprobe}, {"uprobe", enter_by_uprobe},
    {"closes descriptor 3", close_requests}, {"closes every descriptor", close_everything}, {"puts a file in the place of descriptor 3", swap_requests},
    {"answers a request that nobody made", answer_nothing}, {"a reply of 4 GiB", answer_without_end}, {"a reply shorter than its header", answer_too_short},
    {"half a reply", answer_half}, {"16 MiB of zeros", answer_zeros}, {"READY once more", say_ready_again}, {"answers a request twice", answer_twice},
    {"answers as another op", answer_as_another_op}, {"takes over the socket", take_over},
    {"takes the PIN before C_Login", take_pin}, {"catches and blocks every signal", survive_signals}, {"catches its own crash", survive_crash},
    {"100,000 denied calls", flood}, {"denied calls for ever", flood_for_ever}, {"arms the shim itself", arm_early},
};

bool run_act(const char *name) {
  for (size_t i = 0; i < sizeof acts / sizeof acts[0]; i++) {
    if (strcmp(acts[i].name, name) != 0) continue;
    acts[i].run();
    return true;
  }
  return false;
}
