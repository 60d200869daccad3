#include "shim.h"
#include <string.h>

enum { MAX_NUMBER = 2048, MAX_PUBLIC_KEYS = 2 * MAX_KEYS };

/* The only attributes that can be read. None of them is a secret: no message names an attribute. */
static const CK_ULONG FLAGS[] = {
    CKA_SIGN,        CKA_DECRYPT, CKA_UNWRAP,        CKA_SENSITIVE,           CKA_EXTRACTABLE,
    CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE, CKA_LOCAL, CKA_ALWAYS_AUTHENTICATE, CKA_SIGN_RECOVER,
    CKA_DERIVE,      CKA_WRAP,
};
static const CK_ULONG PUBLIC_PARTS[] = {CKA_MODULUS, CKA_PUBLIC_EXPONENT, CKA_EC_PARAMS, CKA_EC_POINT};

static bool number_attribute(const struct shim *shim, CK_ULONG object, CK_ULONG type, CK_ULONG *value) {
  return read_attribute(shim, object, type, value, sizeof *value) == (long)sizeof *value;
}

/* A public key that has an id. */
struct public_key {
  CK_ULONG object, type;
  size_t length;
  uint8_t id[MAX_LABEL];
};

/* Those of a token, read once: a search for each private key would look at all objects as often as there are keys. */
struct public_keys {
  bool whole; /* false: there are more than have room */
  size_t count;
  struct public_key keys[MAX_PUBLIC_KEYS];
};

static void list_public_keys(const struct shim *shim, struct public_keys *list) {
  CK_ULONG class = CKO_PUBLIC_KEY, found[MAX_PUBLIC_KEYS], count = 0;
  struct ck_attribute wanted = {CKA_CLASS, &class, sizeof class};
  list->whole = find_objects(shim, &wanted, 1, found, MAX_PUBLIC_KEYS, &count) == CKR_OK;
  list->count = 0;
  for (CK_ULONG i = 0; list->whole && i < count; i++) {
    struct public_key *key = &list->keys[list->count];
    long length = read_attribute(shim, found[i], CKA_ID, key->id, sizeof key->id);
    if (length <= 0 || !number_attribute(shim, found[i], CKA_KEY_TYPE, &key->type)) continue;
    key->object = found[i];
    key->length = (size_t)length;
    list->count++;
  }
}

static CK_ULONG search_public_key(const struct shim *shim, CK_ULONG key, CK_ULONG type, const uint8_t *id, size_t length) {
  CK_ULONG class = CKO_PUBLIC_KEY, found[2], count = 0;
  struct ck_attribute wanted[] = {
      {CKA_CLASS, &class, sizeof class},
      {CKA_KEY_TYPE, &type, sizeof type},
      {CKA_ID, (void *)id, (CK_ULONG)length},
  };
  return find_objects(shim, wanted, 3, found, 2, &count) == CKR_OK && count == 1 ? found[0] : key;
}

/* The one public key with the same id and type; the private key itself when there is not exactly one. */
static CK_ULONG public_object(const struct shim *shim, const struct public_keys *list, CK_ULONG key, CK_ULONG type,
                              const uint8_t *id, long length) {
  CK_ULONG object = key;
  size_t same = 0;
  if (length <= 0) return key;
  if (!list->whole) return search_public_key(shim, key, type, id, (size_t)length);
  for (size_t i = 0; i < list->count; i++) {
    const struct public_key *candidate = &list->keys[i];
    if (candidate->type != type || candidate->length != (size_t)length || memcmp(candidate->id, id, candidate->length) != 0) continue;
    object = candidate->object;
    same++;
  }
  return same == 1 ? object : key;
}

static void write_flags(const struct shim *shim, CK_ULONG key, struct writer *out) {
  uint32_t set = 0, known = 0;
  for (size_t i = 0; i < sizeof FLAGS / sizeof FLAGS[0]; i++) {
    CK_BYTE value = 0;
    if (read_attribute(shim, key, FLAGS[i], &value, 1) != 1) continue;
    known |= 1U << i;
    if (value != 0) set |= 1U << i;
  }
  write_u32(out, set);
  write_u32(out, known);
}

static void write_optional(const struct shim *shim, CK_ULONG object, CK_ULONG type, struct writer *out) {
  uint8_t value[MAX_NUMBER];
  long length = read_attribute(shim, object, type, value, sizeof value);
  write_sized16(out, value, length < 0 ? 0 : (size_t)length);
}

/* A secret key has no public part; what a library would give for one is not asked for. */
static void write_public_parts(const struct shim *shim, CK_ULONG object, bool secret, struct writer *out) {
  for (size_t i = 0; i < sizeof PUBLIC_PARTS / sizeof PUBLIC_PARTS[0]; i++) {
    if (secret) write_sized16(out, "", 0);
    else write_optional(shim, object, PUBLIC_PARTS[i], out);
  }
}

static CK_RV write_key(const struct shim *shim, const struct public_keys *list, CK_ULONG key, CK_ULONG wanted,
                       struct writer *out) {
  CK_ULONG class = 0, type = 0;
  uint8_t id[MAX_LABEL], label[MAX_LABEL];
  if (!number_attribute(shim, key, CKA_CLASS, &class) || class != wanted) return CKR_GENERAL_ERROR;
  if (!number_attribute(shim, key, CKA_KEY_TYPE, &type)) return CKR_GENERAL_ERROR;
  long id_length = read_attribute(shim, key, CKA_ID, id, sizeof id);
  long label_length = read_attribute(shim, key, CKA_LABEL, label, sizeof label);
  write_u64(out, key);
  write_u64(out, class);
  write_u64(out, type);
  write_sized16(out, id, id_length < 0 ? 0 : (size_t)id_length);
  write_sized16(out, label, label_length < 0 ? 0 : (size_t)label_length);
  write_flags(shim, key, out);
  bool secret = class == CKO_SECRET_KEY;
  write_public_parts(shim, secret ? key : public_object(shim, list, key, type, id, id_length), secret, out);
  return CKR_OK;
}

static CK_RV write_keys(struct shim *shim, struct writer *out) {
  const CK_ULONG classes[] = {CKO_PRIVATE_KEY, CKO_SECRET_KEY};
  size_t at = out->length, total = 0;
  struct public_keys list;
  list_public_keys(shim, &list);
  shim->listed_count = 0;
  write_u16(out, 0);
  for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) {
    CK_ULONG class = classes[i], count = 0, *found = shim->listed + total;
    struct ck_attribute wanted = {CKA_CLASS, &class, sizeof class};
    CK_RV rv = find_objects(shim, &wanted, 1, found, MAX_KEYS - total, &count);
    for (CK_ULONG key = 0; rv == CKR_OK && key < count; key++) rv = write_key(shim, &list, found[key], class, out);
    if (rv != CKR_OK) return rv;
    total += count;
  }
  patch_u16(out, at, (uint16_t)total);
  shim->listed_count = total;
  return CKR_OK;
}

CK_RV op_keys(struct shim *shim, struct reader *in, struct writer *out) {
  CK_ULONG slot = read_u64(in);
  expect_end(in);
  if (shim->phase != PHASE_LOGGED_IN) return CKR_FUNCTION_NOT_SUPPORTED;
  return slot == shim->slot ? write_keys(shim, out) : CKR_SLOT_ID_INVALID;
}
