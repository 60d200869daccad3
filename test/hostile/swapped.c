/*
 * A token that says which bytes it is: VERSION, a letter's code given when it is compiled, stands in the library's description together with its dependency's
 * letter, and the first line of /lab/module.conf is the token's label. Padded, so that copying it takes a while.
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "pkcs11.h"

#define TEXT_(value) #value
#define TEXT(value) TEXT_(value)

/* 2 MiB of the letter, so that a mixture of two versions can be told from both. */
__asm__(".pushsection .padding,\"a\"\npadding: .fill 2097152,1," TEXT(VERSION) "\n.popsection");
extern const char padding[] __attribute__((visibility("hidden")));

#ifdef DEPENDENCY

__attribute__((visibility("default"))) char dependency_version(void) { return padding[0]; }

#else

extern char dependency_version(void);
static char label[32];

static CK_RV initialize(struct ck_initialize_args *args) {
  int fd = open("/lab/module.conf", O_RDONLY | O_CLOEXEC);
  if (args == NULL || fd < 0) return 5;
  ssize_t length = read(fd, label, sizeof label);
  return length == sizeof label && close(fd) == 0 ? 0 : 5;
}

static CK_RV get_info(struct ck_info *info) {
  memset(info->description, ' ', sizeof info->description);
  info->description[0] = (CK_BYTE)padding[0];
  info->description[1] = (CK_BYTE)dependency_version();
  return 0;
}

static CK_RV get_slot_list(CK_BYTE present, CK_ULONG *slots, CK_ULONG *count) {
  slots[0] = 0;
  *count = present;
  return 0;
}

static CK_RV get_token_info(CK_ULONG slot, struct ck_token_info *info) {
  memset(info, ' ', 96);
  memcpy(info->label, label, sizeof label);
  return slot;
}

static CK_RV open_session(CK_ULONG slot, CK_ULONG flags, void *application, void *notify, CK_ULONG *session) {
  (void)application;
  (void)notify;
  *session = flags;
  return slot;
}
static CK_RV login(CK_ULONG session, CK_ULONG user, CK_BYTE *pin, CK_ULONG length) { return session > 0 && pin != NULL && length > 0 ? 0 : user; }
static CK_RV get_attribute_value(CK_ULONG session, CK_ULONG object, struct ck_attribute *wanted, CK_ULONG count) {
  return session > 0 && object == 0 && wanted == NULL ? count : 7;
}
static CK_RV find_objects_init(CK_ULONG session, struct ck_attribute *wanted, CK_ULONG count) { return session > 0 && (wanted == NULL || count > 0) ? 0 : 7; }
static CK_RV find_objects(CK_ULONG session, CK_ULONG *objects, CK_ULONG max, CK_ULONG *count) {
  *count = 0;
  return session > 0 && objects != NULL && max > 0 ? 0 : 7;
}
static CK_RV find_objects_final(CK_ULONG session) { return session > 0 ? 0 : 7; }
static CK_RV sign_init(CK_ULONG session, struct ck_mechanism *mechanism, CK_ULONG key) { return session > 0 && mechanism == NULL ? key : 7; }
static CK_RV sign(CK_ULONG session, const CK_BYTE *data, CK_ULONG length, CK_BYTE *signature, CK_ULONG *signature_length) {
  *signature_length = 0;
  return session > 0 && data == NULL && signature == NULL ? length : 7;
}

__attribute__((visibility("default"))) CK_RV C_GetFunctionList(struct ck_function_list **list) {
  static struct ck_function_list functions = {
      .version = {2, 40},
      .initialize = initialize,
      .get_info = get_info,
      .get_slot_list = get_slot_list,
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

#endif
