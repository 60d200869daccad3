/*
 * A workload that lets its connection out of its hands, in one of several ways: passed-socket ACT PATH [ARGUMENT]
 * Each act but `both` and `early` connects, says version 0 and takes the answer; what comes afterwards is written to standard output until the agent closes.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* C_Initialize of the p11-kit protocol, without options: code 1, call 1, its signature, the handshake, a flag byte, reserved. */
static const char REQUEST[] =
    "\0\0\0\1\0\0\0\0\0\0\0\102"
    "\0\0\0\1\0\0\0\5ayyay\1\0\0\0\51PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1\0\1\0\0\0\1\0";

static _Noreturn void fail(const char *what) {
  perror(what);
  exit(2);
}

static int connect_to(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) fail("connect");
  return fd;
}

static int connected(const char *path) {
  int fd = connect_to(path);
  char version = 0;
  if (write(fd, &version, 1) != 1 || read(fd, &version, 1) != 1) fail("version");
  return fd;
}

static void ask(int fd) {
  if (write(fd, REQUEST, sizeof REQUEST - 1) != sizeof REQUEST - 1) fail("request");
}

static void listen_to(int fd) {
  char bytes[512];
  ssize_t n;
  while ((n = read(fd, bytes, sizeof bytes)) > 0) {
    if (write(1, bytes, (size_t)n) != n) fail("output");
  }
}

/* One message with one control message: descriptors or credentials. */
static void send_with(int fd, int type, const void *data, size_t size, const char *bytes, size_t length) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(struct ucred))];
  } control = {0};
  struct iovec part = {(void *)bytes, length};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = CMSG_SPACE(size)};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = type;
  header->cmsg_len = CMSG_LEN(size);
  memcpy(CMSG_DATA(header), data, size);
  if (sendmsg(fd, &message, MSG_NOSIGNAL) < 0) {
    printf("%s", strerrorname_np(errno));
    exit(0);
  }
}

static int receive_fd(int from) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control = {0};
  char byte;
  int fd;
  struct iovec part = {&byte, 1};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  if (recvmsg(from, &message, 0) != 1 || CMSG_FIRSTHDR(&message) == NULL) fail("receive descriptor");
  memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
  return fd;
}

/* The child asks on the socket that it inherited; the parent lives on, or with `orphan` does not. */
static void inherit(int fd, int orphan) {
  int gone[2];
  char byte;
  if (pipe(gone) != 0) fail("pipe");
  pid_t child = fork();
  if (child < 0) fail("fork");
  if (child > 0) {
    if (!orphan) waitpid(child, NULL, 0);
    _exit(0);
  }
  close(gone[1]);
  if (orphan && read(gone[0], &byte, 1) != 0) fail("wait");
  if (!orphan) ask(fd);
  listen_to(fd);
}

/* Parent, child and parent write, in this order, before anybody reads. */
static void both(int fd) {
  if (write(fd, "parent", 6) != 6) fail("write");
  pid_t child = fork();
  if (child < 0) fail("fork");
  if (child == 0) _exit(write(fd, "child", 5) == 5 ? 0 : 2);
  waitpid(child, NULL, 0);
  if (write(fd, "parent", 6) != 6) fail("write");
  printf("written\n");
  fflush(stdout);
  listen_to(fd);
}

/* A process of another kind, which had no part in the connecting, gets the socket by message and asks. */
static void pass(const char *path, const char *uid) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) fail("socketpair");
  pid_t other = fork();
  if (other < 0) fail("fork");
  if (other == 0) {
    if (uid != NULL && (setgid((gid_t)atoi(uid)) != 0 || setuid((uid_t)atoi(uid)) != 0)) fail("setuid");
    int fd = receive_fd(pair[1]);
    ask(fd);
    listen_to(fd);
    exit(0);
  }
  int fd = connected(path);
  send_with(pair[0], SCM_RIGHTS, &fd, sizeof fd, "x", 1);
  waitpid(other, NULL, 0);
}

/* The socket of a caller of user ARGUMENT is passed to a process that keeps its privilege, and claims to be that caller. */
static void impersonate(const char *path, const char *uid) {
  int pair[2];
  struct ucred claimed = {.pid = getpid(), .uid = (uid_t)atoi(uid), .gid = (gid_t)atoi(uid)};
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) fail("socketpair");
  pid_t other = fork();
  if (other < 0) fail("fork");
  if (other == 0) {
    int fd = receive_fd(pair[1]);
    send_with(fd, SCM_CREDENTIALS, &claimed, sizeof claimed, REQUEST, sizeof REQUEST - 1);
    (void)shutdown(fd, SHUT_WR);
    listen_to(fd);
    exit(0);
  }
  if (getuid() == 0 && (setgid(claimed.gid) != 0 || setuid(claimed.uid) != 0)) fail("setuid");
  int fd = connected(path);
  send_with(pair[0], SCM_RIGHTS, &fd, sizeof fd, "x", 1);
  waitpid(other, NULL, 0);
}

/* What the kernel lets through: its own truth for everybody, and for CAP_SYS_ADMIN any process that exists. */
static void forge(int fd, const char *pid) {
  struct ucred claimed = {.pid = (pid_t)atoi(pid), .uid = getuid(), .gid = getgid()};
  send_with(fd, SCM_CREDENTIALS, &claimed, sizeof claimed, REQUEST, sizeof REQUEST - 1);
  listen_to(fd);
}

/* After the exec: the old connection lies at descriptor ARGUMENT; it is used once standard input says so. */
static void go_on(const char *number) {
  char byte;
  int fd = atoi(number);
  printf("ready\n");
  fflush(stdout);
  if (read(0, &byte, 1) != 1) fail("wait");
  ask(fd);
  (void)shutdown(fd, SHUT_WR);
  listen_to(fd);
}

/* Everything is sent before anybody can look; then the program at ARGUMENT, which is the caller's, has the connection. */
/* With the smallest buffer that the kernel gives: asks, three pieces each time, and waits for as many bytes to come back. */
static void patient(int fd, const char *count) {
  int smallest = 1;
  (void)alarm(30);
  char piece[700];
  memset(piece, 'p', sizeof piece);
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &smallest, sizeof smallest) != 0) _exit(1);
  for (int left = atoi(count); left > 0; left--) {
    for (int i = 0; i < 3; i++) {
      if (write(fd, piece, sizeof piece) != (ssize_t)sizeof piece) _exit(1);
    }
    for (size_t got = 0; got < 3 * sizeof piece;) {
      ssize_t n = read(fd, piece, sizeof piece);
      if (n <= 0) _exit(1);
      got += (size_t)n;
    }
  }
  (void)!write(1, "all", 3);
}

static void early(const char *path, const char *program) {
  char bytes[sizeof REQUEST] = {0}, number[16];
  int fd = connect_to(path);
  memcpy(bytes + 1, REQUEST, sizeof REQUEST - 1);
  if (write(fd, bytes, sizeof bytes) != sizeof bytes) fail("write");
  (void)snprintf(number, sizeof number, "%d", fd);
  execl(program, program, "hear", number, (char *)NULL);
  fail("exec");
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  const char *act = argv[1], *path = argv[2], *argument = argc > 3 ? argv[3] : NULL;
  if (strcmp(act, "pass") == 0) return pass(path, argument), 0;
  if (strcmp(act, "both") == 0) return both(connect_to(path)), 0;
  if (strcmp(act, "impersonate") == 0) return impersonate(path, argument), 0;
  if (strcmp(act, "patient") == 0) return patient(connect_to(path), argument), 0;
  if (strcmp(act, "early") == 0) return early(path, argument), 0;
  if (strcmp(act, "hear") == 0) return listen_to(atoi(path)), 0;
  if (strcmp(act, "go-on") == 0) return go_on(path), 0;
  int fd = connected(path);
  if (strcmp(act, "honest") == 0) return ask(fd), shutdown(fd, SHUT_WR), listen_to(fd), 0;
  if (strcmp(act, "inherit") == 0) return inherit(fd, 0), 0;
  if (strcmp(act, "orphan") == 0) return inherit(fd, 1), 0;
  if (strcmp(act, "forge") == 0) return forge(fd, argument), 0;
  if (strcmp(act, "descriptors") == 0) {
    int null_fd = 0;
    send_with(fd, SCM_RIGHTS, &null_fd, sizeof null_fd, REQUEST, sizeof REQUEST - 1);
    return listen_to(fd), 0;
  }
  if (strcmp(act, "exec") == 0) {
    char number[16];
    (void)snprintf(number, sizeof number, "%d", fd);
    execl(argument, argument, "go-on", number, (char *)NULL);
    fail("exec");
  }
  return 2;
}
