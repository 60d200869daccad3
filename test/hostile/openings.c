/*
 * A PKCS#11 module that tries what a profile with exceptions might let slip, when it is initialised. Each attempt is a token, whose label is
 * the attempt's name and what the kernel answered: 0 or an errno. OPENINGS names the list. With `threads` it starts a thread that lives on
 * and ends the process by itself once it finds that memory cannot be made executable any more: 77 when it cannot start a thread then either.
 */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/usbdevice_fs.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "module.h"

enum { MAX_ATTEMPTS = 16 };
static struct { const char *name; int answer; } attempts[MAX_ATTEMPTS];
static size_t count;

static void note(const char *name, long result) {
  if (count < MAX_ATTEMPTS) attempts[count].answer = result < 0 ? errno : 0;
  if (count < MAX_ATTEMPTS) attempts[count++].name = name;
}

static int stream(void) { return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); }

static struct sockaddr_in at(uint16_t port) {
  return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
}

static void relay_opens(void) {
  struct sockaddr_in nobody = at(9);
  int one = 1, fd = stream();
  note("tcp over ipv4", fd);
  note("tcp over ipv6", socket(AF_INET6, SOCK_STREAM, IPPROTO_TCP));
  note("unix stream", socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
  note("nodelay", setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
  note("keepalive", setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one));
  note("nonblock", fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK));
  note("connect to nobody", connect(stream(), (struct sockaddr *)&nobody, sizeof nobody));
}

static void relay_sockets(void) {
  note("udp", socket(AF_INET, SOCK_DGRAM, 0));
  note("udp over ipv6", socket(AF_INET6, SOCK_DGRAM, 0));
  note("raw", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
  note("multipath tcp", socket(AF_INET, SOCK_STREAM, 262));
  note("sctp", socket(AF_INET, SOCK_STREAM, 132));
  note("unix datagram", socket(AF_UNIX, SOCK_DGRAM, 0));
  note("unix seqpacket", socket(AF_UNIX, SOCK_SEQPACKET, 0));
  note("netlink route", socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
  note("netlink uevent", socket(AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT));
  note("vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
  note("packet", socket(AF_PACKET, SOCK_RAW, 0));
  note("alg", socket(AF_ALG, SOCK_SEQPACKET, 0));
  note("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, (int[2]){0, 0}));
}

static void relay_options(void) {
  static char bytes[64];
  socklen_t size = sizeof(int);
  int fd = stream(), value = 0;
  note("error", getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &size));
  note("type", getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &size));
  note("nodelay is", getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, &size));
  note("other end", getsockopt(3, SOL_SOCKET, SO_PEERCRED, bytes, &(socklen_t){sizeof bytes}));
  note("pidfd of the other end", getsockopt(3, SOL_SOCKET, 77, &value, &size));
  note("zero-copy receive", getsockopt(fd, IPPROTO_TCP, 35, bytes, &(socklen_t){sizeof bytes}));
  note("tcp info", getsockopt(fd, IPPROTO_TCP, TCP_INFO, bytes, &(socklen_t){sizeof bytes}));
  note("attached filter", getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, bytes, &(socklen_t){sizeof bytes}));
}

static void relay_calls(void) {
  struct sockaddr_in here = at(0), there = at(9);
  int fd = stream(), one = 1;
  char byte = 0;
  struct iovec part = {&byte, 1};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  note("bind", bind(fd, (struct sockaddr *)&here, sizeof here));
  note("listen", listen(fd, 1));
  note("accept", accept4(fd, NULL, NULL, 0));
  note("sendto an address", sendto(fd, &byte, 1, 0, (struct sockaddr *)&there, sizeof there));
  note("fast open", sendto(fd, &byte, 1, MSG_FASTOPEN, (struct sockaddr *)&there, sizeof there));
  note("send out of band", send(fd, &byte, 1, MSG_OOB));
  note("receive out of band", recv(fd, &byte, 1, MSG_OOB));
  note("receive errors", recv(fd, &byte, 1, MSG_ERRQUEUE));
  note("sendmsg", sendmsg(fd, &message, 0));
  note("recvmsg", recvmsg(fd, &message, MSG_DONTWAIT));
  note("kernel tls", setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", 3));
  note("filter", setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &one, sizeof one));
  note("ioctl", ioctl(fd, FIONREAD, &one));
  note("asynchronous", fcntl(fd, F_SETFL, O_RDWR | O_ASYNC));
  note("owner", fcntl(fd, F_SETOWN, getpid()));
}

static void processes(void) {
  const long thread = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS |
                      CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
  char bytes[64] = {0};
  note("fork", syscall(SYS_fork));
  note("vfork", syscall(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL, NULL, NULL, NULL));
  note("clone", syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL));
  note("clone in a namespace", syscall(SYS_clone, thread | CLONE_NEWUSER, bytes, NULL, NULL, NULL));
  note("clone without sharing", syscall(SYS_clone, thread & ~CLONE_FILES, bytes, NULL, NULL, NULL));
  note("clone3", syscall(SYS_clone3, bytes, sizeof bytes));
}

static int start_libusb(void) {
  void *library = dlopen("libusb-1.0.so.0", RTLD_NOW);
  int (*init)(void **) = library == NULL ? NULL : (int (*)(void **))dlsym(library, "libusb_init");
  long (*list)(void *, void ***) = library == NULL ? NULL : (long (*)(void *, void ***))dlsym(library, "libusb_get_device_list");
  void *context = NULL, **devices = NULL;
  errno = ENOENT;
  if (init == NULL || list == NULL) return -1;
  errno = EIO;
  return init(&context) != 0 || list(context, &devices) < 0 ? -1 : 0;
}

static void usb(void) {
  struct sockaddr_nl events = {.nl_family = AF_NETLINK, .nl_groups = 2};
  struct sockaddr_in here = at(0);
  int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT), node = open("/dev/null", O_RDWR);
  char bytes[64] = {0};
  note("libusb", start_libusb());
  note("bind to events", bind(netlink, (struct sockaddr *)&events, sizeof events));
  note("bind an address", bind(netlink, (struct sockaddr *)&here, sizeof here));
  note("connect", connect(netlink, (struct sockaddr *)&events, sizeof events));
  note("netlink route", socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
  note("tcp", stream());
  note("pidfd of the other end", getsockopt(3, SOL_SOCKET, 77, bytes, &(socklen_t){sizeof(int)}));
  note("open a node", node);
  note("write to a node", write(node, bytes, 1));
  note("usb request", ioctl(node, USBDEVFS_GET_CAPABILITIES, bytes));
  note("terminal request", ioctl(node, TCGETS, bytes));
  note("reset", ioctl(node, USBDEVFS_RESET));
  note("driver request", ioctl(node, USBDEVFS_IOCTL, bytes));
  note("make a file in /dev", open("/dev/made", O_WRONLY | O_CREAT, 0600));
  note("remove a node", unlink("/dev/null"));
  note("another node", open("/dev/zero", O_RDWR));
}

static void *nothing(void *unused) { return unused; }

static _Noreturn void *outlive(void *unused) {
  (void)unused;
  for (;;) {
    void *page = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
      pthread_t other;
      _exit(errno == EPERM && pthread_create(&other, NULL, nothing, NULL) != 0 ? 77 : 78);
    }
    (void)munmap(page, 4096);
    (void)usleep(1000);
  }
}

static CK_RV initialize(struct ck_initialize_args *args) {
  (void)args;
  const char *list = getenv("OPENINGS");
  pthread_t thread;
  if (list == NULL) return CKR_GENERAL_ERROR;
  if (strcmp(list, "relay-opens") == 0) relay_opens();
  if (strcmp(list, "relay-sockets") == 0) relay_sockets();
  if (strcmp(list, "relay-calls") == 0) relay_calls();
  if (strcmp(list, "relay-options") == 0) relay_options();
  if (strcmp(list, "processes") == 0) processes();
  if (strcmp(list, "usb") == 0) usb();
  if (strcmp(list, "threads") == 0) note("thread", pthread_create(&thread, NULL, outlive, NULL) == 0 ? 0 : -1);
  return CKR_OK;
}

static CK_RV get_info(struct ck_info *info) {
  memset(info, 0, sizeof *info);
  return CKR_OK;
}

static CK_RV get_slot_list(CK_BYTE present, CK_ULONG *slots, CK_ULONG *length) {
  (void)present;
  if (*length < count) return CKR_GENERAL_ERROR;
  for (size_t i = 0; i < count; i++) slots[i] = i;
  *length = count;
  return CKR_OK;
}

static CK_RV get_token_info(CK_ULONG slot, struct ck_token_info *info) {
  char label[33];
  memset(info, ' ', sizeof *info);
  int length = snprintf(label, sizeof label, "%s %d", attempts[slot].name, attempts[slot].answer);
  memcpy(info->label, label, (size_t)length);
  info->flags = 0x404; /* log-in required, PIN set */
  return CKR_OK;
}

static CK_RV open_session(CK_ULONG slot, CK_ULONG flags, void *application, void *notify, CK_ULONG *session) {
  (void)flags, (void)application, (void)notify;
  *session = slot + 1;
  return CKR_OK;
}

/* There is nothing to log in to: whatever the PIN, so that ARM can follow. */
static CK_RV find_nothing_init(CK_ULONG session, struct ck_attribute *wanted, CK_ULONG length) {
  (void)session, (void)wanted, (void)length;
  return CKR_OK;
}

static CK_RV find_nothing(CK_ULONG session, CK_ULONG *objects, CK_ULONG max, CK_ULONG *found) {
  (void)session, (void)objects, (void)max;
  *found = 0;
  return CKR_OK;
}

static CK_RV find_nothing_final(CK_ULONG session) {
  (void)session;
  return CKR_OK;
}

static CK_RV unsupported(void) { return CKR_GENERAL_ERROR; }

CK_RV C_GetFunctionList(struct ck_function_list **list) {
  static struct ck_function_list functions;
  functions = (struct ck_function_list){
      .version = {2, 40},
      .initialize = initialize,
      .get_info = get_info,
      .get_slot_list = get_slot_list,
      .get_token_info = get_token_info,
      .open_session = open_session,
      .close_session = (void *)unsupported,
      .login = any_pin,
      .get_attribute_value = (void *)unsupported,
      .find_objects_init = find_nothing_init,
      .find_objects = find_nothing,
      .find_objects_final = find_nothing_final,
      .sign_init = (void *)unsupported,
      .sign = (void *)unsupported,
  };
  *list = &functions;
  return CKR_OK;
}
