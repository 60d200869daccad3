/*
 * A connection whose process ends, and whose number the kernel then gives to another program, which holds the connection too:
 *   reused-pid WHEN DOOR SOCKET CONNECTOR NEXT UID AGENT
 * CONNECTOR connects, NEXT (both are copies of this program) has its number afterwards and asks. WHEN is
 *   asked     the agent is stopped from before the connector's end until the question lies in the socket
 *   accepted  the agent is stopped from before the connection until the number is NEXT's
 *   looked    the connector is replaced while the agent looks: standard input says when, and is closed when it is done
 *   never     there is no other one: the connector asks
 * What is answered goes to standard output. Whoever runs this may choose process ids (CAP_CHECKPOINT_RESTORE over the PID namespace).
 */
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* Descriptors of whoever holds the connection: itself, what it is told, what it says. */
enum { CONNECTION = 10, TOLD = 11, SAYS = 12 };

/* C_Initialize, as in passed-socket.c. */
static const char INITIALIZE[] =
    "\0\0\0\1\0\0\0\0\0\0\0\102"
    "\0\0\0\1\0\0\0\5ayyay\1\0\0\0\51PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1\0\1\0\0\0\1\0";
/* SIGN in the first session: CKM_ECDSA of a digest. */
static const char SIGN[] =
    "\0\0\0\75\0\0\0\1\4\0\0\0\1\12release-ec\0\0\20\101\1\0\0\0\40"
    "0123456789abcdef0123456789abcdef";

static _Noreturn void fail(const char *what) {
  perror(what);
  _exit(2);
}

static int is_native(const char *door) { return strcmp(door, "native") == 0; }

static void send_all(const char *bytes, size_t length) {
  if (write(CONNECTION, bytes, length) != (ssize_t)length) fail("write");
}

static void greet(const char *door) {
  if (is_native(door)) send_all("IRPC\1", 5);
  else send_all("", 1);
}

static int read_all(char *bytes, size_t length) {
  for (ssize_t n; length > 0; bytes += n, length -= (size_t)n) {
    n = read(CONNECTION, bytes, length);
    if (n <= 0) return 0;
  }
  return 1;
}

/* The version, and at the native door HELLO. */
static int hear_greeting(const char *door) {
  char bytes[4096];
  if (!is_native(door)) return read_all(bytes, 1);
  if (!read_all(bytes, 9)) return 0;
  size_t length = (size_t)(uint8_t)bytes[7] << 8 | (uint8_t)bytes[8];
  return length <= sizeof bytes && read_all(bytes, length);
}

static void ask(const char *door) {
  if (is_native(door)) send_all(SIGN, sizeof SIGN - 1);
  else send_all(INITIALIZE, sizeof INITIALIZE - 1);
}

static void tell(int fd) {
  if (write(fd, "", 1) != 1) fail("tell");
}

static void wait_for(int fd) {
  char byte;
  if (read(fd, &byte, 1) != 1) fail("wait");
}

static void print_answer(void) {
  char bytes[512];
  ssize_t n;
  (void)shutdown(CONNECTION, SHUT_WR);
  while ((n = read(CONNECTION, bytes, sizeof bytes)) > 0) (void)!write(1, bytes, (size_t)n);
}

/* The connector: connects, greets, and ends when it is told, by way of nothing but its end. */
static int be_connector(const char *when, const char *door, const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  if (connect(CONNECTION, (struct sockaddr *)&address, sizeof address) != 0) fail("connect");
  greet(door);
  int is_served = strcmp(when, "asked") == 0 || strcmp(when, "never") == 0;
  if (is_served && !hear_greeting(door)) fail("greeting");
  tell(SAYS);
  if (strcmp(when, "never") == 0) {
    ask(door);
    print_answer();
    return 0;
  }
  wait_for(TOLD);
  return 0;
}

/* The next one with its number. */
static int be_next(const char *when, const char *door) {
  tell(SAYS);
  if (strcmp(when, "asked") != 0 && !hear_greeting(door)) return 0;
  ask(door);
  tell(SAYS);
  print_answer();
  return 0;
}

static int pipes[2][2];

/* A copy of this program at `path`, with the number `pid` unless that is 0. */
static pid_t start(pid_t pid, const char *uid, const char *path, char *const *arguments) {
  struct clone_args how = {.exit_signal = SIGCHLD, .set_tid = pid == 0 ? 0 : (uintptr_t)&pid, .set_tid_size = pid != 0};
  pid_t child = (pid_t)syscall(SYS_clone3, &how, sizeof how);
  if (child < 0) fail("clone3");
  if (child > 0) return child;
  gid_t group = (gid_t)atoi(uid);
  if (getuid() == 0 && (setgid(group) != 0 || setuid((uid_t)group) != 0)) fail("setuid");
  (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (dup2(pipes[0][0], TOLD) < 0 || dup2(pipes[1][1], SAYS) < 0) fail("dup2");
  execv(path, arguments);
  fail("exec");
}

static int is_stopped(const char *pid) {
  char path[64], text[512] = {0};
  (void)snprintf(path, sizeof path, "/proc/%s/stat", pid);
  FILE *file = fopen(path, "r");
  if (file == NULL) fail(path);
  (void)!fread(text, 1, sizeof text - 1, file);
  (void)fclose(file);
  const char *end = strrchr(text, ')');
  return end != NULL && end[2] == 'T';
}

static void stop_agent(const char *pid) {
  if (kill(atoi(pid), SIGSTOP) != 0) fail("stop");
  while (!is_stopped(pid)) (void)usleep(1000);
}

static int is_when(char **argv, const char *name) { return strcmp(argv[1], name) == 0; }

int main(int argc, char **argv) {
  if (argc == 5 && strcmp(argv[1], "connector") == 0) return be_connector(argv[2], argv[3], argv[4]);
  if (argc == 4 && strcmp(argv[1], "next") == 0) return be_next(argv[2], argv[3]);
  if (argc != 8) return 2;
  char *connector[] = {argv[4], "connector", argv[1], argv[2], argv[3], NULL}, *next[] = {argv[5], "next", argv[1], argv[2], NULL};
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  if (fd < 0 || dup2(fd, CONNECTION) < 0 || pipe(pipes[0]) != 0 || pipe(pipes[1]) != 0) fail("socket");
  (void)close(fd);
  if (is_when(argv, "accepted")) stop_agent(argv[7]);
  pid_t pid = start(0, argv[6], argv[4], connector);
  wait_for(pipes[1][0]);
  if (is_when(argv, "never")) return waitpid(pid, NULL, 0) == pid ? 0 : 2;
  if (is_when(argv, "looked")) wait_for(0);
  if (is_when(argv, "asked")) stop_agent(argv[7]);
  tell(pipes[0][1]);
  if (waitpid(pid, NULL, 0) != pid) fail("connector");
  if (start(pid, argv[6], argv[5], next) != pid) fail("number");
  wait_for(pipes[1][0]);
  if (is_when(argv, "looked")) (void)close(0); /* the agent hears of it */
  if (is_when(argv, "asked")) wait_for(pipes[1][0]);
  (void)kill(atoi(argv[7]), SIGCONT);
  return waitpid(pid, NULL, 0) == pid ? 0 : 2;
}
