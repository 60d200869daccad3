#include <string.h>

#include "shim.h"

enum { MAX_NAME = 256, MAX_NUMBER = 2048 };

/* The only attributes that can be read. None of them is a secret: no message names an attribute. */
static const CK_ULONG FLAGS[] = {
    CKA_SIGN,        CKA_DECRYPT, CKA_UNWRAP,        CKA_SENSITIVE,           CKA_EXTRACTABLE,
    CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE, CKA_LOCAL, CKA_ALWAYS_AUTHENTICATE, CKA_SIGN_RECOVER,
    CKA_DERIVE,      CKA_WRAP,
};
static const CK_ULONG PUBLIC_PARTS[] = {CKA_MODULUS, CKA_PUBLIC_EXPONENT, CKA_EC_PARAMS, CKA_EC_POINT};

/* What a search or an attribute is asked of: one token's session. */
struct view { const struct library *library; CK_ULONG session; };

/* Reads one attribute into `value`: its length, or -1 when the object has none of at most `size` bytes. */
static long attribute(const struct view *view, CK_ULONG object, CK_ULONG type, void *value, size_t size) {
  struct ck_attribute wanted = {.type = type, .value = value, .length = size};
  if (view->library->get_attribute_value(view->session, object, &wanted, 1) != CKR_OK) return -1;
  return wanted.length <= size ? (long)wanted.length : -1;
}

static bool number_attribute(const struct view *view, CK_ULONG object, CK_ULONG type, CK_ULONG *value) {
  return attribute(view, object, type, value, sizeof *value) == (long)sizeof *value;
}

/* At most `max` objects; more than that is an error, never a cut list. */
static CK_RV find(const struct view *view, struct ck_attribute *wanted, CK_ULONG terms, CK_ULONG *found, CK_ULONG max,
                  CK_ULONG *count) {
  *count = 0;
  CK_RV rv = view->library->find_objects_init(view->session, wanted, terms);
  if (rv != CKR_OK) return rv;
  for (;;) {
    CK_ULONG one, got = 0;
    rv = view->library->find_objects(view->session, &one, 1, &got);
    if (rv != CKR_OK || got == 0) break;
    if (got != 1 || *count == max) {
      rv = CKR_BUFFER_TOO_SMALL;
      break;
    }
    found[(*count)++] = one;
  }
  CK_RV closed = view->library->find_objects_final(view->session);
  return rv != CKR_OK ? rv : closed;
}

/* The one public key with the same id and type; the private key itself when there is not exactly one. */
static CK_ULONG public_object(const struct view *view, CK_ULONG key, CK_ULONG type, const uint8_t *id, long length) {
  CK_ULONG class = CKO_PUBLIC_KEY, found[2], count = 0;
  struct ck_attribute wanted[] = {
      {CKA_CLASS, &class, sizeof class},
      {CKA_KEY_TYPE, &type, sizeof type},
      {CKA_ID, (void *)id, (CK_ULONG)(length < 0 ? 0 : length)},
  };
  if (length <= 0) return key;
  return find(view, wanted, 3, found, 2, &count) == CKR_OK && count == 1 ? found[0] : key;
}

static void write_flags(const struct view *view, CK_ULONG key, struct writer *out) {
  uint32_t set = 0, known = 0;
  for (size_t i = 0; i < sizeof FLAGS / sizeof FLAGS[0]; i++) {
    CK_BYTE value = 0;
    if (attribute(view, key, FLAGS[i], &value, 1) != 1) continue;
    known |= 1U << i;
    if (value != 0) set |= 1U << i;
  }
  write_u32(out, set);
  write_u32(out, known);
}

static void write_optional(const struct view *view, CK_ULONG object, CK_ULONG type, struct writer *out) {
  uint8_t value[MAX_NUMBER];
  long length = attribute(view, object, type, value, sizeof value);
  write_sized16(out, value, length < 0 ? 0 : (size_t)length);
}

static CK_RV write_key(const struct view *view, CK_ULONG key, struct writer *out) {
  CK_ULONG class = 0, type = 0;
  uint8_t id[MAX_NAME], label[MAX_NAME];
  if (!number_attribute(view, key, CKA_CLASS, &class) || class != CKO_PRIVATE_KEY) return CKR_GENERAL_ERROR;
  if (!number_attribute(view, key, CKA_KEY_TYPE, &type)) return CKR_GENERAL_ERROR;
  long id_length = attribute(view, key, CKA_ID, id, sizeof id);
  long label_length = attribute(view, key, CKA_LABEL, label, sizeof label);
  write_u64(out, key);
  write_u64(out, class);
  write_u64(out, type);
  write_sized16(out, id, id_length < 0 ? 0 : (size_t)id_length);
  write_sized16(out, label, label_length < 0 ? 0 : (size_t)label_length);
  write_flags(view, key, out);
  CK_ULONG public = public_object(view, key, type, id, id_length);
  for (size_t i = 0; i < sizeof PUBLIC_PARTS / sizeof PUBLIC_PARTS[0]; i++) {
    write_optional(view, public, PUBLIC_PARTS[i], out);
  }
  return CKR_OK;
}

static CK_RV write_keys(const struct view *view, struct token *token, struct writer *out) {
  CK_ULONG class = CKO_PRIVATE_KEY, count = 0;
  struct ck_attribute wanted = {CKA_CLASS, &class, sizeof class};
  token->key_count = 0;
  CK_RV rv = find(view, &wanted, 1, token->keys, MAX_KEYS, &count);
  if (rv != CKR_OK) return rv;
  write_u16(out, (uint16_t)count);
  for (CK_ULONG i = 0; i < count; i++) {
    rv = write_key(view, token->keys[i], out);
    if (rv != CKR_OK) return rv;
  }
  token->key_count = count;
  return CKR_OK;
}

CK_RV op_keys(struct shim *shim, struct reader *in, struct writer *out) {
  CK_ULONG slot = read_u64(in);
  expect_end(in);
  if (shim->phase != PHASE_LOGGED_IN) return CKR_FUNCTION_NOT_SUPPORTED;
  struct token *token = find_token(shim, slot);
  if (token == NULL) return CKR_SLOT_ID_INVALID;
  return write_keys(&(struct view){.library = &shim->library, .session = token->session}, token, out);
}
