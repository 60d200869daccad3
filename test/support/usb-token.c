/*
 * SoftHSM behind a smart card reader on USB: a token that initialises only when it can open and claim the reader, and signs only when the
 * reader answers. It talks to the reader as libusb does: the node's descriptors, a claimed interface, URBs that are submitted, waited
 * for and reaped.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/usbdevice_fs.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "over-softhsm.h"

#define NODES "/dev/bus/usb"
/* QEMU's usb-ccid */
#define VENDOR 0x08e6
#define PRODUCT 0x4433
#define BULK_IN 0x82
#define BULK_OUT 0x03

#define CKR_DEVICE_ERROR 0x30UL
#define CKR_DEVICE_REMOVED 0x32UL

/* CCID 1.1, 6.1.2 and 6.2.2 */
enum { MESSAGE = 10, GET_SLOT_STATUS = 0x65, SLOT_STATUS = 0x81, ANSWER_MS = 10000 };

static int reader = -1;

static bool is_reader(int fd) {
  unsigned char descriptor[18];
  if (read(fd, descriptor, sizeof descriptor) != (ssize_t)sizeof descriptor) return false;
  return (descriptor[8] | descriptor[9] << 8) == VENDOR && (descriptor[10] | descriptor[11] << 8) == PRODUCT;
}

static int open_in(const char *bus) {
  char directory[64], path[128];
  int found = -1;
  (void)snprintf(directory, sizeof directory, NODES "/%.3s", bus);
  DIR *nodes = opendir(directory);
  if (nodes == NULL) return -1;
  for (struct dirent *entry; found < 0 && (entry = readdir(nodes)) != NULL;) {
    if (entry->d_name[0] == '.') continue;
    (void)snprintf(path, sizeof path, "%s/%.3s", directory, entry->d_name);
    found = open(path, O_RDWR | O_CLOEXEC);
    if (found >= 0 && !is_reader(found)) (void)close(found), found = -1;
  }
  (void)closedir(nodes);
  return found;
}

static int open_reader(void) {
  DIR *buses = opendir(NODES);
  int found = -1;
  if (buses == NULL) return -1;
  for (struct dirent *entry; found < 0 && (entry = readdir(buses)) != NULL;)
    if (entry->d_name[0] != '.') found = open_in(entry->d_name);
  (void)closedir(buses);
  return found;
}

/* Also the string descriptor of the maker: a control transfer, which needs no claimed interface. */
static bool claim_reader(void) {
  unsigned int capabilities, interface = 0;
  unsigned char text[64];
  struct usbdevfs_ctrltransfer request = {
      .bRequestType = 0x80, .bRequest = 6, .wValue = 3 << 8 | 1, .wIndex = 0x409, .wLength = sizeof text, .timeout = 5000, .data = text};
  return ioctl(reader, USBDEVFS_GET_CAPABILITIES, &capabilities) == 0 && ioctl(reader, USBDEVFS_CLAIMINTERFACE, &interface) == 0 &&
         ioctl(reader, USBDEVFS_CONTROL, &request) > 2;
}

static bool transfer(unsigned char endpoint, unsigned char *bytes, int length) {
  struct usbdevfs_urb urb = {.type = USBDEVFS_URB_TYPE_BULK, .endpoint = endpoint, .buffer = bytes, .buffer_length = length}, *done = NULL;
  struct pollfd ready = {.fd = reader, .events = POLLOUT};
  if (ioctl(reader, USBDEVFS_SUBMITURB, &urb) != 0) return false;
  if (poll(&ready, 1, ANSWER_MS) != 1) (void)ioctl(reader, USBDEVFS_DISCARDURB, &urb);
  /* the kernel keeps pointers to both until it is reaped */
  while (ioctl(reader, USBDEVFS_REAPURB, &done) != 0)
    if (errno != EINTR) return false;
  return done == &urb && urb.status == 0 && urb.actual_length == length;
}

static bool reader_answers(void) {
  static unsigned char sequence;
  unsigned char message[MESSAGE] = {GET_SLOT_STATUS, [6] = ++sequence}, answer[MESSAGE] = {0};
  if (!transfer(BULK_OUT, message, sizeof message) || !transfer(BULK_IN, answer, sizeof answer)) return false;
  return answer[0] == SLOT_STATUS && answer[6] == sequence;
}

static CK_RV initialize(struct ck_initialize_args *arguments) {
  reader = open_reader();
  if (reader < 0) return CKR_DEVICE_REMOVED;
  if (!claim_reader() || !reader_answers()) return CKR_DEVICE_ERROR;
  return C_Initialize(arguments);
}

static CK_RV sign(CK_ULONG session, const CK_BYTE *data, CK_ULONG length, CK_BYTE *signature, CK_ULONG *signature_length) {
  if (!reader_answers()) return CKR_DEVICE_ERROR;
  return C_Sign(session, data, length, signature, signature_length);
}

EXPORTED CK_RV C_GetFunctionList(struct ck_function_list **list) {
  static struct ck_function_list functions = OVER_SOFTHSM(initialize, sign);
  *list = &functions;
  return CKR_OK;
}
