/* Ways to somebody else: sockets of every family, and descriptors over the one socket that is there. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "lab.h"

enum { REQUESTS = 3, FAMILIES = 46 };

static char byte;
static int passed = 1;
static struct iovec part = {&byte, 1};
static union { struct cmsghdr header; char bytes[CMSG_SPACE(sizeof passed)]; } control;
static struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
static struct { struct msghdr header; unsigned length; } messages = {{.msg_iov = &part, .msg_iovlen = 1}, 0};
static struct sockaddr_un somewhere = {AF_UNIX, "/run/ironclaw/scopes/release-signing"};

/* What a profile opens is tried by itself, below. */
static bool is_opened_family(long family) {
  return ((family == AF_INET || family == AF_INET6) && is_opened("inet")) || (family == AF_UNIX && is_opened("unix"));
}

static int every_family(long nr) {
  static const long types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET};
  int ends[2];
  for (long family = 0; family < FAMILIES; family++) {
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
      if (nr == SYS_socket && types[i] == SOCK_STREAM && is_opened_family(family)) continue;
      int error = try_call(nr, (const long[6]){family, types[i] | SOCK_CLOEXEC, 0, (long)ends});
      if (error != EPERM) return error;
    }
  }
  return EPERM;
}

static int every_socket(void) { return every_family(SYS_socket); }
static int every_pair(void) { return every_family(SYS_socketpair); }

static int pass_descriptor(void) {
  struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof passed);
  memcpy(CMSG_DATA(rights), &passed, sizeof passed);
  return try_call(SYS_sendmsg, (const long[6]){REQUESTS, (long)&message, MSG_NOSIGNAL | MSG_DONTWAIT});
}

/* Some of them work on a descriptor of any kind. */
static int every_ioctl(void) {
  for (long fd = 0; fd <= 4; fd++) {
    for (long request = 0; request < 65536; request++) {
      /* a number that the profile lets through to devices: this is none, or not there */
      int error = try_call(SYS_ioctl, (const long[6]){fd, request});
      if (error != EPERM && error != ENOTTY && error != EBADF) return error;
    }
  }
  return EPERM;
}

static int every_other_fcntl(void) {
  for (long command = 0; command < 2048; command++) {
    bool allowed = (command >= F_GETFD && command <= F_GETFL) || (command >= F_GETLK && command <= F_SETLKW) ||
                   (command == F_SETFL && is_opened("inet"));
    int error = allowed ? EPERM : try_call(SYS_fcntl, (const long[6]){REQUESTS, command});
    if (error != EPERM) return error;
  }
  return EPERM;
}

/* A stream to an address of the machine or of its network. */
static int connect_to(int family, const void *address, unsigned length) {
  long fd = enter_kernel(SYS_socket, (const long[6]){family, SOCK_STREAM | SOCK_CLOEXEC});
  if (fd < 0) return (int)-fd;
  int error = try_call(SYS_connect, (const long[6]){fd, (long)address, length});
  (void)close((int)fd);
  return error;
}

static int connect_ipv4(const char *text, unsigned short port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  if (inet_pton(AF_INET, text, &address.sin_addr) != 1) return EINVAL;
  return connect_to(AF_INET, &address, sizeof address);
}

static unsigned short machine_port(void) {
  const char *port = getenv("LAB_PORT");
  return (unsigned short)(port == NULL ? 1 : strtoul(port, NULL, 10));
}

/* LAB_PORT: where somebody listens on this machine's loopback, outside the shim's network. */
static int connect_machine(void) { return connect_ipv4("127.0.0.1", machine_port()); }
static int connect_network(void) { return connect_ipv4("192.0.2.1", 443); }
static int connect_metadata(void) { return connect_ipv4("169.254.169.254", 80); }
static int connect_unix(void) { return connect_to(AF_UNIX, &somewhere, sizeof somewhere); }
static int connect_abstract(void) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  (void)snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "ironclaw-lab-%u", machine_port());
  return connect_to(AF_UNIX, &address, (unsigned)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(address.sun_path + 1)));
}

static int with_socket(long nr) {
  struct sockaddr_in address = {.sin_family = AF_INET};
  long fd = enter_kernel(SYS_socket, (const long[6]){AF_INET, SOCK_STREAM | SOCK_CLOEXEC});
  if (fd < 0) return (int)-fd;
  int error = try_call(nr, (const long[6]){fd, nr == SYS_bind ? (long)&address : 1, sizeof address});
  (void)close((int)fd);
  return error;
}
static int bind_stream(void) { return with_socket(SYS_bind); }
static int listen_stream(void) { return with_socket(SYS_listen); }

const struct attempt endpoint_attempts[] = {
    {"a TCP socket", SYS_socket, {AF_INET, SOCK_STREAM}, NULL},
    {"a Unix stream socket", SYS_socket, {AF_UNIX, SOCK_STREAM}, NULL},
    {"a netlink socket for device events", SYS_socket, {AF_NETLINK, SOCK_RAW, 15}, NULL},
    {"a UDP socket", SYS_socket, {AF_INET, SOCK_DGRAM}, NULL},
    {"a raw ICMP socket", SYS_socket, {AF_INET, SOCK_RAW, 1}, NULL},
    {"a multipath TCP socket", SYS_socket, {AF_INET, SOCK_STREAM, 262}, NULL},
    {"an SCTP socket", SYS_socket, {AF_INET, SOCK_STREAM, 132}, NULL},
    {"a netlink socket for routes", SYS_socket, {AF_NETLINK, SOCK_RAW, 0}, NULL},
    {"TCP to who listens on the machine's loopback", 0, {0}, connect_machine},
    {"TCP to the machine's network", 0, {0}, connect_network},
    {"TCP to a cloud's metadata", 0, {0}, connect_metadata},
    {"TCP to who may connect (bind)", 0, {0}, bind_stream},
    {"TCP to who may connect (listen)", 0, {0}, listen_stream},
    {"a Unix socket of the machine by its path", 0, {0}, connect_unix},
    {"a Unix socket of the machine by its abstract name", 0, {0}, connect_abstract},
    {"socket, families 0 to 45, four types each", 0, {0}, every_socket},
    {"socketpair, families 0 to 45, four types each", 0, {0}, every_pair},
    {"connect", SYS_connect, {REQUESTS, (long)&somewhere, sizeof somewhere}, NULL},
    {"bind", SYS_bind, {REQUESTS, (long)&somewhere, sizeof somewhere}, NULL},
    {"listen", SYS_listen, {REQUESTS, 1}, NULL},
    {"accept", SYS_accept, {REQUESTS}, NULL},
    {"accept4", SYS_accept4, {REQUESTS}, NULL},
    {"sendto", SYS_sendto, {REQUESTS, (long)&byte, 1, MSG_DONTWAIT, (long)&somewhere, sizeof somewhere}, NULL},
    {"recvfrom", SYS_recvfrom, {REQUESTS, (long)&byte, 1, MSG_DONTWAIT}, NULL},
    {"a descriptor to the agent (sendmsg)", 0, {0}, pass_descriptor},
    {"a descriptor from the agent (recvmsg)", SYS_recvmsg, {REQUESTS, (long)&message, MSG_DONTWAIT}, NULL},
    {"sendmmsg", SYS_sendmmsg, {REQUESTS, (long)&messages, 1, MSG_DONTWAIT}, NULL},
    {"recvmmsg", SYS_recvmmsg, {REQUESTS, (long)&messages, 1, MSG_DONTWAIT}, NULL},
    {"getsockopt", SYS_getsockopt, {REQUESTS, SOL_SOCKET, SO_PEERCRED}, NULL},
    {"setsockopt", SYS_setsockopt, {REQUESTS, SOL_SOCKET, SO_PASSCRED, (long)&passed, sizeof passed}, NULL},
    {"getpeername", SYS_getpeername, {REQUESTS}, NULL},
    {"shutdown", SYS_shutdown, {0, 0}, NULL},
    {"ioctl, numbers 0 to 65535 on each descriptor", 0, {0}, every_ioctl},
    {"fcntl, every command but locks and flags", 0, {0}, every_other_fcntl},
    {"dup", SYS_dup, {REQUESTS}, NULL},
    {"dup2", SYS_dup2, {0, REQUESTS}, NULL},
    {"pipe2", SYS_pipe2, {(long)&somewhere}, NULL},
    {"eventfd2", SYS_eventfd2, {0}, NULL},
    {"signalfd4", SYS_signalfd4, {-1, (long)&somewhere, 8}, NULL},
    {"epoll_create1", SYS_epoll_create1, {0}, NULL},
    {"splice", SYS_splice, {REQUESTS, 0, 4, 0, 1}, NULL},
    {"mq_open", SYS_mq_open, {(long)"lab", O_RDWR | O_CREAT, 0600}, NULL},
    {"msgget", SYS_msgget, {0, 0600}, NULL},
    {"semget", SYS_semget, {0, 1, 0600}, NULL},
    {NULL, 0, {0}, NULL},
};
