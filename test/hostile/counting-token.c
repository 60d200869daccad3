/*
 * A PKCS#11 token that counts wrong PINs and locks itself, as HSMs do and SoftHSM does not. One P-256 key pair.
 * Its state is in the directory that COUNTING_TOKEN names, each in a file of its own; further tokens, in slots of their own and with the
 * same handles, are in its directories 1, 2, ... 8:
 *
 *   label, serial, pin, key   given: text, text, the right PIN, the private key in DER
 *   tries                     one byte: wrong PINs since the last right one; missing = 0
 *   logins                    one line for each C_Login: right, wrong or locked
 *   flags                     text: further CKF_... of the token, such as 0x100 for one with a PIN pad
 *   always-authenticate       there: the key wants a log-in for each use
 *   no-history                there: nothing is told of the key's past
 *   logged-out                there: the HSM has ended every log-in
 *   fails                     there: no signature is made, and what is on the token is listed all the same
 *   gone                      there: the HSM answers nothing any more
 *   attacks                   load, login, keys or sign: where the library tries to open a socket
 */
#include <fcntl.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pkcs11.h"

enum { MAX_SLOTS = 9, LIMIT = 3, PRIVATE_KEY = 1, PUBLIC_KEY = 2, COORDINATE = 32, POINT = 2 + 1 + 2 * COORDINATE };

#define CKF_LOGIN_REQUIRED 0x4UL
#define CKF_USER_PIN_INITIALIZED 0x8UL
#define CKF_TOKEN_INITIALIZED 0x400UL
#define CKF_USER_PIN_COUNT_LOW 0x10000UL
#define CKF_USER_PIN_FINAL_TRY 0x20000UL
#define CKF_USER_PIN_LOCKED 0x40000UL
#define CKR_ATTRIBUTE_TYPE_INVALID 0x12UL
#define CKR_DEVICE_ERROR 0x30UL
#define CKR_PIN_INCORRECT 0xA0UL
#define CKR_PIN_LOCKED 0xA4UL
#define CKR_USER_NOT_LOGGED_IN 0x101UL
#define CKK_EC 3UL

static struct slot {
  EVP_PKEY *key;
  CK_BYTE point[POINT]; /* DER OCTET STRING of the uncompressed point */
  bool logged_in;
} slots[MAX_SLOTS];
static CK_ULONG slot_count;

/* --- files --- */

static int open_file(CK_ULONG slot, const char *name, int flags) {
  const char *directory = getenv("COUNTING_TOKEN");
  char path[512], own[8] = "";
  if (slot > 0) (void)snprintf(own, sizeof own, "/%lu", slot % MAX_SLOTS);
  if (directory == NULL || snprintf(path, sizeof path, "%s%s/%s", directory, own, name) >= (int)sizeof path) return -1;
  return open(path, flags | O_CLOEXEC, 0600);
}

/* The number of bytes, or -1. */
static long read_file(CK_ULONG slot, const char *name, void *bytes, size_t size) {
  int fd = open_file(slot, name, O_RDONLY);
  if (fd < 0) return -1;
  ssize_t length = read(fd, bytes, size);
  (void)close(fd);
  return length;
}

static bool write_file(CK_ULONG slot, const char *name, int flags, const void *bytes, size_t size) {
  int fd = open_file(slot, name, O_WRONLY | O_CREAT | flags);
  if (fd < 0) return false;
  bool written = write(fd, bytes, size) == (ssize_t)size && fsync(fd) == 0;
  return close(fd) == 0 && written;
}

static unsigned read_tries(CK_ULONG slot) {
  CK_BYTE tries = 0;
  return read_file(slot, "tries", &tries, 1) == 1 ? tries : 0;
}

static bool write_tries(CK_ULONG slot, unsigned tries) {
  CK_BYTE byte = (CK_BYTE)tries;
  return write_file(slot, "tries", 0, &byte, 1);
}

/* Whether a file is there. */
static bool has(CK_ULONG slot, const char *name) {
  int fd = open_file(slot, name, O_RDONLY);
  return fd >= 0 && close(fd) == 0;
}

static void attack(CK_ULONG slot, const char *where) {
  char text[16] = "";
  if (read_file(slot, "attacks", text, sizeof text - 1) > 0 && strcmp(text, where) == 0) (void)socket(AF_INET, SOCK_STREAM, 0);
}

static CK_ULONG further_flags(CK_ULONG slot) {
  char text[32] = "";
  return read_file(slot, "flags", text, sizeof text - 1) > 0 ? strtoul(text, NULL, 0) : 0;
}

static void record_login(CK_ULONG slot, const char *line) { (void)write_file(slot, "logins", O_APPEND, line, strlen(line)); }

static void copy_padded(CK_ULONG slot, CK_BYTE *to, size_t size, const char *file) {
  memset(to, ' ', size);
  (void)read_file(slot, file, to, size);
}

/* --- library and token --- */

static bool open_slot(CK_ULONG number, struct slot *slot) {
  CK_BYTE der[512];
  const CK_BYTE *at = der;
  long length = read_file(number, "key", der, sizeof der);
  if (length <= 0) return false;
  slot->key = d2i_AutoPrivateKey(NULL, &at, length);
  size_t size = 0;
  slot->point[0] = 4;
  slot->point[1] = POINT - 2;
  return slot->key != NULL && EVP_PKEY_get_octet_string_param(slot->key, "pub", slot->point + 2, POINT - 2, &size) == 1 &&
         size == POINT - 2;
}

static CK_RV initialize(struct ck_initialize_args *args) {
  (void)args;
  while (slot_count < MAX_SLOTS && open_slot(slot_count, &slots[slot_count])) attack(slot_count++, "load");
  return slot_count > 0 ? CKR_OK : CKR_DEVICE_ERROR;
}

static CK_RV get_info(struct ck_info *info) {
  info->cryptoki = (struct ck_version){2, 40};
  memset(info->manufacturer, ' ', sizeof info->manufacturer);
  memset(info->description, ' ', sizeof info->description);
  memcpy(info->manufacturer, "IronClaw tests", 14);
  memcpy(info->description, "counting token", 14);
  info->library = (struct ck_version){1, 0};
  return CKR_OK;
}

static CK_RV get_slot_list(CK_BYTE present, CK_ULONG *list, CK_ULONG *count) {
  (void)present;
  for (CK_ULONG slot = 0; list != NULL && slot < slot_count; slot++) list[slot] = slot;
  *count = slot_count;
  return CKR_OK;
}

static CK_ULONG pin_flags(unsigned tries) {
  if (tries >= LIMIT) return CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_LOCKED;
  if (tries == LIMIT - 1) return CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY;
  return tries > 0 ? CKF_USER_PIN_COUNT_LOW : 0;
}

static CK_RV get_token_info(CK_ULONG slot, struct ck_token_info *info) {
  if (slot >= slot_count) return CKR_SLOT_ID_INVALID;
  copy_padded(slot, info->label, sizeof info->label, "label");
  copy_padded(slot, info->serial, sizeof info->serial, "serial");
  memset(info->manufacturer, ' ', sizeof info->manufacturer);
  memcpy(info->manufacturer, "IronClaw tests", 14);
  memset(info->model, ' ', sizeof info->model);
  memcpy(info->model, "counting", 8);
  info->flags = CKF_LOGIN_REQUIRED | CKF_USER_PIN_INITIALIZED | CKF_TOKEN_INITIALIZED | pin_flags(read_tries(slot)) |
                further_flags(slot);
  info->hardware = info->firmware = (struct ck_version){1, 0};
  return CKR_OK;
}

static CK_RV open_session(CK_ULONG slot, CK_ULONG flags, void *application, void *notify, CK_ULONG *session) {
  (void)application;
  (void)notify;
  *session = slot + 1;
  return slot < slot_count && (flags & CKF_SERIAL_SESSION) != 0 ? CKR_OK : CKR_SLOT_ID_INVALID;
}

/* The slot of a session, or NULL. */
static struct slot *slot_of(CK_ULONG session) {
  return session >= 1 && session <= slot_count ? &slots[session - 1] : NULL;
}

/* The try is counted before the PIN is looked at: cutting the power in between gains nothing. */
static CK_RV login(CK_ULONG session, CK_ULONG user, CK_BYTE *pin, CK_ULONG length) {
  CK_BYTE right[256];
  struct slot *own = slot_of(session);
  CK_ULONG slot = session - 1;
  if (own == NULL) return CKR_DEVICE_ERROR;
  unsigned tries = read_tries(slot);
  long right_length = read_file(slot, "pin", right, sizeof right);
  if (user != CKU_USER || right_length <= 0) return CKR_DEVICE_ERROR;
  if (tries >= LIMIT) {
    record_login(slot, "locked\n");
    return CKR_PIN_LOCKED;
  }
  attack(slot, "login");
  if (!write_tries(slot, tries + 1)) return CKR_DEVICE_ERROR;
  own->logged_in = length == (CK_ULONG)right_length && memcmp(pin, right, length) == 0;
  record_login(slot, own->logged_in ? "right\n" : "wrong\n");
  if (!own->logged_in) return CKR_PIN_INCORRECT;
  return write_tries(slot, 0) ? CKR_OK : CKR_DEVICE_ERROR;
}

/* --- objects --- */

static CK_RV give(struct ck_attribute *wanted, const void *value, CK_ULONG length) {
  if (wanted->length < length) return CKR_BUFFER_TOO_SMALL;
  memcpy(wanted->value, value, length);
  wanted->length = length;
  return CKR_OK;
}

static CK_RV give_flag(struct ck_attribute *wanted, bool flag) {
  CK_BYTE byte = flag;
  return give(wanted, &byte, sizeof byte);
}

/* Only what the shim asks for; a private key has no public parts. */
static CK_RV get_attribute_value(CK_ULONG session, CK_ULONG object, struct ck_attribute *wanted, CK_ULONG count) {
  static const CK_BYTE prime256v1[] = {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07};
  const bool private = object == PRIVATE_KEY;
  const CK_ULONG class = private ? CKO_PRIVATE_KEY : CKO_PUBLIC_KEY, type = CKK_EC;
  const struct slot *slot = slot_of(session);
  if (slot == NULL || count != 1 || (object != PRIVATE_KEY && object != PUBLIC_KEY)) return CKR_ARGUMENTS_BAD;
  if (private && !slot->logged_in) return CKR_USER_NOT_LOGGED_IN;
  switch (wanted->type) {
    case CKA_CLASS: return give(wanted, &class, sizeof class);
    case CKA_KEY_TYPE: return give(wanted, &type, sizeof type);
    case CKA_ID: return give(wanted, "\x01", 1);
    case CKA_LABEL: return give(wanted, "release-ec", 10);
    case CKA_EC_PARAMS: if (!private) return give(wanted, prime256v1, sizeof prime256v1); break;
    case CKA_EC_POINT: if (!private) return give(wanted, slot->point, sizeof slot->point); break;
    case CKA_ALWAYS_SENSITIVE: case CKA_NEVER_EXTRACTABLE: case CKA_LOCAL:
      if (has(session - 1, "no-history")) break;
      return give_flag(wanted, private);
    case CKA_SIGN: case CKA_SENSITIVE: return give_flag(wanted, private);
    case CKA_ALWAYS_AUTHENTICATE: return give_flag(wanted, has(session - 1, "always-authenticate"));
    case CKA_DECRYPT: case CKA_UNWRAP: case CKA_EXTRACTABLE: case CKA_SIGN_RECOVER: case CKA_DERIVE:
      return give_flag(wanted, false);
    default: break;
  }
  wanted->length = (CK_ULONG)-1;
  return CKR_ATTRIBUTE_TYPE_INVALID;
}

static CK_ULONG next; /* object that the search gives next; 0 at its end */

static CK_RV find_objects_init(CK_ULONG session, struct ck_attribute *wanted, CK_ULONG count) {
  CK_ULONG class = 0;
  const struct slot *slot = slot_of(session);
  if (slot == NULL) return CKR_ARGUMENTS_BAD;
  if (has(session - 1, "gone")) return CKR_DEVICE_ERROR;
  attack(session - 1, "keys");
  for (CK_ULONG i = 0; i < count; i++) {
    if (wanted[i].type == CKA_CLASS) memcpy(&class, wanted[i].value, sizeof class);
  }
  next = class == CKO_PUBLIC_KEY ? PUBLIC_KEY : class == CKO_PRIVATE_KEY && slot->logged_in ? PRIVATE_KEY : 0;
  return CKR_OK;
}

static CK_RV find_objects(CK_ULONG session, CK_ULONG *objects, CK_ULONG max, CK_ULONG *count) {
  *count = slot_of(session) != NULL && max > 0 && next != 0 ? 1 : 0;
  if (*count == 1) objects[0] = next;
  next = 0;
  return CKR_OK;
}

static CK_RV find_objects_final(CK_ULONG session) {
  return slot_of(session) != NULL ? CKR_OK : CKR_ARGUMENTS_BAD;
}

/* --- CKM_ECDSA --- */

static CK_RV sign_init(CK_ULONG session, struct ck_mechanism *mechanism, CK_ULONG object) {
  const struct slot *slot = slot_of(session);
  if (slot == NULL || !slot->logged_in || has(session - 1, "logged-out")) return CKR_USER_NOT_LOGGED_IN;
  if (object != PRIVATE_KEY) return CKR_KEY_HANDLE_INVALID;
  if (has(session - 1, "fails") || has(session - 1, "gone")) return CKR_DEVICE_ERROR;
  return mechanism->type == CKM_ECDSA ? CKR_OK : CKR_MECHANISM_INVALID;
}

/* r and s, of a DER signature. */
static bool split_signature(const CK_BYTE *der, size_t length, CK_BYTE *signature) {
  ECDSA_SIG *parsed = d2i_ECDSA_SIG(NULL, &der, (long)length);
  bool split = parsed != NULL && BN_bn2binpad(ECDSA_SIG_get0_r(parsed), signature, COORDINATE) == COORDINATE &&
               BN_bn2binpad(ECDSA_SIG_get0_s(parsed), signature + COORDINATE, COORDINATE) == COORDINATE;
  ECDSA_SIG_free(parsed);
  return split;
}

static CK_RV sign(CK_ULONG session, const CK_BYTE *data, CK_ULONG length, CK_BYTE *signature, CK_ULONG *signature_length) {
  CK_BYTE der[128];
  size_t size = sizeof der;
  const struct slot *slot = slot_of(session);
  attack(session - 1, "sign");
  EVP_PKEY_CTX *context = slot == NULL ? NULL : EVP_PKEY_CTX_new(slot->key, NULL);
  bool made = *signature_length >= 2 * COORDINATE && context != NULL &&
                 EVP_PKEY_sign_init(context) == 1 && EVP_PKEY_sign(context, der, &size, data, length) == 1 &&
                 split_signature(der, size, signature);
  EVP_PKEY_CTX_free(context);
  *signature_length = 2 * COORDINATE;
  return made ? CKR_OK : CKR_DEVICE_ERROR;
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
  return CKR_OK;
}
