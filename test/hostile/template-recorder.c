/*
 * A PKCS#11 module that writes down what it is asked for, and lies where it is told to. Two slots with the same objects, any PIN. Each
 * line of the file that TEMPLATE_RECORDER names is one call:
 *
 *   open SLOT FLAGS | close SESSION | login | sign KEY MECHANISM | decrypt KEY MECHANISM
 *   unwrap SESSION KEY MECHANISM { TYPE=HEX }            what C_UnwrapKey got
 *   forbidden                                            any function that no message may lead to
 *   value                                                C_GetAttributeValue for an attribute that holds a secret
 *
 * The lie of an unwrap is the first byte of what is to be unwrapped, that of a decryption the first byte of the ciphertext: see `lie_about`
 * and `decrypt`.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "module.h"

enum { MAX_OBJECTS = 2048, MAX_ATTRIBUTES = 20, MAX_VALUE = 256, FUNCTIONS = 68 };

#define CKR_ATTRIBUTE_SENSITIVE 0x11UL
#define CKR_ATTRIBUTE_TYPE_INVALID 0x12UL
#define CKR_SESSION_READ_ONLY 0xB5UL
#define CKO_DATA 0UL
#define CKA_VALUE 0x11UL
#define CKA_PRIVATE_EXPONENT 0x123UL
#define CKA_PRIME_1 0x124UL
#define CKA_COEFFICIENT 0x128UL

struct attribute { CK_ULONG type, length; CK_BYTE value[MAX_VALUE]; };
struct object { CK_ULONG count; struct attribute attributes[MAX_ATTRIBUTES]; CK_BYTE lie; };

static struct object *objects[MAX_OBJECTS]; /* by handle - 1 */
static CK_ULONG object_count;
static int record = -1;
static CK_ULONG busy_key, busy_mechanism;

static void note(const char *format, ...) {
  char line[8192];
  va_list args;
  va_start(args, format);
  int length = vsnprintf(line, sizeof line, format, args);
  va_end(args);
  if (record >= 0 && length > 0 && write(record, line, (size_t)length) != length) abort();
}

/* --- objects --- */

static void put(struct object *object, CK_ULONG type, const void *value, CK_ULONG length) {
  struct attribute *attribute = &object->attributes[object->count++];
  if (object->count > MAX_ATTRIBUTES || length > MAX_VALUE) abort();
  *attribute = (struct attribute){.type = type, .length = length};
  memcpy(attribute->value, value, length);
}

static struct object *new_object(void) {
  struct object *object = calloc(1, sizeof *object);
  if (object == NULL || object_count == MAX_OBJECTS) abort();
  objects[object_count++] = object;
  return object;
}

static struct attribute *find_attribute(struct object *object, CK_ULONG type) {
  for (CK_ULONG i = 0; i < object->count; i++) {
    if (object->attributes[i].type == type) return &object->attributes[i];
  }
  return NULL;
}

/* A key that may do everything, so that only the shim stands in the way. */
static void add_object(CK_ULONG class, CK_ULONG type, const char *label, CK_BYTE id) {
  static const CK_ULONG flags[] = {CKA_SIGN, CKA_DECRYPT, CKA_UNWRAP, CKA_WRAP, CKA_ENCRYPT, CKA_SENSITIVE};
  struct object *object = new_object();
  put(object, CKA_CLASS, &class, sizeof class);
  put(object, CKA_KEY_TYPE, &type, sizeof type);
  put(object, CKA_LABEL, label, strlen(label));
  put(object, CKA_ID, &id, 1);
  for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) put(object, flags[i], "\1", 1);
  put(object, CKA_EXTRACTABLE, "\0", 1);
}

/* --- library, slots, sessions --- */

static CK_RV forbidden(void) {
  note("forbidden\n");
  return CKR_OK;
}

static CK_RV initialize(struct ck_initialize_args *args) {
  const char *path = getenv("TEMPLATE_RECORDER");
  if (path != NULL) record = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  add_object(CKO_PRIVATE_KEY, CKK_RSA, "one", 1);
  add_object(CKO_PUBLIC_KEY, CKK_RSA, "one", 1);
  add_object(CKO_DATA, 0, "data", 9);
  add_object(CKO_PRIVATE_KEY, CKK_RSA, "two", 2);
  add_object(CKO_SECRET_KEY, CKK_AES, "kek", 3);
  return args == NULL || record < 0 ? CKR_ARGUMENTS_BAD : CKR_OK;
}

static CK_RV get_slot_list(CK_BYTE present, CK_ULONG *slots, CK_ULONG *count) {
  if (!present || *count < 2) return CKR_BUFFER_TOO_SMALL;
  slots[0] = 0;
  slots[1] = 1;
  *count = 2;
  return CKR_OK;
}

static CK_RV get_token_info(CK_ULONG slot, struct ck_token_info *info) {
  (void)blank_token(slot, info);
  info->label[0] = (CK_BYTE)('a' + slot);
  info->flags = 0x40C;
  return CKR_OK;
}

/* Sessions 1 are read-only, 2 read-write. Slot 7 has no token. */
static CK_RV open_session(CK_ULONG slot, CK_ULONG flags, void *application, void *notify, CK_ULONG *session) {
  note("open %lu %lu\n", slot, flags);
  *session = (flags & CKF_RW_SESSION) != 0 ? 2 : 1;
  return application == NULL && notify == NULL && slot != 7 ? CKR_OK : CKR_SLOT_ID_INVALID;
}

static CK_RV close_session(CK_ULONG session) {
  note("close %lu\n", session);
  return CKR_OK;
}

/* The PIN "lie" makes it answer with the shim's own word for a PIN that was not tried. */
static CK_RV login(CK_ULONG session, CK_ULONG user, CK_BYTE *pin, CK_ULONG length) {
  note("login\n");
  if (length == 3 && memcmp(pin, "lie", 3) == 0) return 0x80494301;
  return session == 1 && user == CKU_USER && length > 0 ? CKR_OK : CKR_ARGUMENTS_BAD;
}

/* --- searching and reading --- */

static CK_ULONG found[MAX_OBJECTS], found_count, given;

static bool matches(struct object *object, const struct ck_attribute *wanted, CK_ULONG count) {
  for (CK_ULONG i = 0; i < count; i++) {
    const struct attribute *own = find_attribute(object, wanted[i].type);
    if (own == NULL || own->length != wanted[i].length || memcmp(own->value, wanted[i].value, own->length) != 0) return false;
  }
  return true;
}

static CK_RV find_objects_init(CK_ULONG session, struct ck_attribute *wanted, CK_ULONG count) {
  found_count = given = 0;
  for (CK_ULONG i = 0; i < object_count; i++) {
    if (matches(objects[i], wanted, count)) found[found_count++] = i + 1;
  }
  return session == 1 ? CKR_OK : CKR_ARGUMENTS_BAD;
}

static CK_RV find_objects(CK_ULONG session, CK_ULONG *list, CK_ULONG max, CK_ULONG *count) {
  *count = session == 1 && max > 0 && given < found_count ? 1 : 0;
  if (*count == 1) list[0] = found[given++];
  return CKR_OK;
}

static CK_RV find_objects_final(CK_ULONG session) { return session == 1 ? CKR_OK : CKR_ARGUMENTS_BAD; }

/* What is said of an unwrapped key that is not so. True when the attribute is not told at all. */
static bool lie_about(const struct object *object, struct attribute *told) {
  switch (object->lie) {
    case 'e': told->value[0] |= told->type == CKA_EXTRACTABLE; break;
    case 'p': told->value[0] ^= told->type == CKA_PRIVATE; break;
    case 's': told->value[0] ^= told->type == CKA_SENSITIVE; break;
    case 'w': told->value[0] |= told->type == CKA_WRAP || told->type == CKA_SIGN_RECOVER; break;
    case 'u': told->value[0] |= told->type == CKA_UNWRAP; break;
    case 'd': told->value[0] |= told->type == CKA_DECRYPT || told->type == CKA_SIGN; break;
    case 't': told->value[0] ^= told->type == CKA_TOKEN; break;
    case 'k': told->value[0] ^= told->type == CKA_KEY_TYPE; break;
    case 'l': told->length += told->type == CKA_EXTRACTABLE; break;
    case 'm': told->value[0] ^= told->type == CKA_ALLOWED_MECHANISMS; break;
    case 'i': told->value[0] ^= told->type == CKA_ID; break;
    case 'q': return told->type == CKA_SENSITIVE;
    default: break;
  }
  return false;
}

static CK_RV get_attribute_value(CK_ULONG session, CK_ULONG handle, struct ck_attribute *wanted, CK_ULONG count) {
  if (session != 1 || handle == 0 || handle > object_count || count != 1) return CKR_ARGUMENTS_BAD;
  if (wanted->type == CKA_VALUE || (wanted->type >= CKA_PRIVATE_EXPONENT && wanted->type <= CKA_COEFFICIENT)) {
    note("value\n");
    return CKR_ATTRIBUTE_SENSITIVE;
  }
  struct attribute *own = find_attribute(objects[handle - 1], wanted->type);
  struct attribute told = own == NULL ? (struct attribute){.type = wanted->type} : *own;
  if (own == NULL || lie_about(objects[handle - 1], &told)) {
    wanted->length = (CK_ULONG)-1;
    return CKR_ATTRIBUTE_TYPE_INVALID;
  }
  if (told.length > wanted->length) return CKR_BUFFER_TOO_SMALL;
  memcpy(wanted->value, told.value, told.length);
  wanted->length = told.length;
  return CKR_OK;
}

/* --- using keys --- */

static CK_RV sign_init(CK_ULONG session, struct ck_mechanism *mechanism, CK_ULONG key) {
  busy_key = key;
  busy_mechanism = mechanism->type;
  return session == 1 ? CKR_OK : CKR_ARGUMENTS_BAD;
}

static CK_RV sign(CK_ULONG session, const CK_BYTE *data, CK_ULONG length, CK_BYTE *signature, CK_ULONG *signature_length) {
  if (session != 1 || data == NULL || length > 65536) return CKR_ARGUMENTS_BAD;
  note("sign %lu 0x%lx\n", busy_key, busy_mechanism);
  signature[0] = (CK_BYTE)busy_key;
  *signature_length = 1;
  return CKR_OK;
}

static CK_RV decrypt_init(CK_ULONG session, struct ck_mechanism *mechanism, CK_ULONG key) {
  note("decrypt %lu 0x%lx\n", key, mechanism->type);
  return session == 1 ? CKR_OK : CKR_ARGUMENTS_BAD;
}

/* Turns every bit over, in the caller's buffer and nowhere else. */
static CK_RV decrypt(CK_ULONG session, const CK_BYTE *data, CK_ULONG length, CK_BYTE *plaintext, CK_ULONG *plaintext_length) {
  if (session != 1 || length > *plaintext_length) return CKR_ARGUMENTS_BAD;
  for (CK_ULONG i = 0; i < length; i++) plaintext[i] = data[i] ^ 0xFF;
  switch (length > 0 ? data[0] : 0) {
    case 'L': *plaintext_length = 1UL << 40; break;
    case 'O': *plaintext_length += 1; break;
    case 'M': *plaintext_length = (CK_ULONG)-1; break;
    case 'N': *plaintext_length = 0; break;
    case 'H': for (;;) (void)pause();
    case 'E': return 0x40; /* CKR_ENCRYPTED_DATA_INVALID, after the plaintext was written */
    default: *plaintext_length = length; break;
  }
  return CKR_OK;
}

static void note_template(const struct ck_attribute *attributes, CK_ULONG count) {
  for (CK_ULONG i = 0; i < count; i++) {
    note(" 0x%lx=", attributes[i].type);
    for (CK_ULONG at = 0; at < attributes[i].length; at++) note("%02x", ((const CK_BYTE *)attributes[i].value)[at]);
  }
  note("\n");
}

static CK_RV unwrap_key(CK_ULONG session, struct ck_mechanism *mechanism, CK_ULONG key, const CK_BYTE *wrapped, CK_ULONG length,
                        struct ck_attribute *attributes, CK_ULONG count, CK_ULONG *made) {
  note("unwrap %lu %lu 0x%lx", session, key, mechanism->type);
  note_template(attributes, count);
  if (length == 0 || count > MAX_ATTRIBUTES) return CKR_ARGUMENTS_BAD;
  if (wrapped[0] == 'R') return 0x80494302; /* the shim's own word */
  if (wrapped[0] == 'S') return CKR_SESSION_READ_ONLY;
  struct object *object = new_object();
  for (CK_ULONG i = 0; i < count; i++) put(object, attributes[i].type, attributes[i].value, attributes[i].length);
  object->lie = wrapped[0];
  *made = object_count;
  if (wrapped[0] == '1') *made = 1;
  if (wrapped[0] == '2') *made = 2;
  if (wrapped[0] == '0') *made = 0;
  if (wrapped[0] == '9') *made = 999999;
  return CKR_OK;
}

__attribute__((visibility("default"))) CK_RV C_GetFunctionList(struct ck_function_list **list) {
  static struct ck_function_list functions = {
      .version = {2, 40},
      .initialize = initialize,
      .get_info = blank_info,
      .get_slot_list = get_slot_list,
      .get_token_info = get_token_info,
      .open_session = open_session,
      .close_session = close_session,
      .login = login,
      .get_attribute_value = get_attribute_value,
      .find_objects_init = find_objects_init,
      .find_objects = find_objects,
      .find_objects_final = find_objects_final,
      .decrypt_init = decrypt_init,
      .decrypt = decrypt,
      .sign_init = sign_init,
      .sign = sign,
      .unwrap_key = unwrap_key,
  };
  _Static_assert(sizeof functions == 8 + FUNCTIONS * sizeof(void *), "the list of v2.40");
  void **entries = (void **)((char *)&functions + offsetof(struct ck_function_list, initialize));
  for (size_t i = 0; i < FUNCTIONS; i++) {
    if (entries[i] == NULL) entries[i] = (void *)forbidden;
  }
  *list = &functions;
  return CKR_OK;
}
