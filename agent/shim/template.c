#include <string.h>

#include "shim.h"

static const CK_BYTE YES = 1, NO = 0;

static void add(struct template *template, CK_ULONG type, const void *value, size_t length) {
  template->attributes[template->count++] = (struct ck_attribute){.type = type, .value = (void *)value, .length = length};
}

static void add_flag(struct template *template, CK_ULONG type, bool value) { add(template, type, value ? &YES : &NO, 1); }

/*
 * No request can say otherwise: what comes in stays in (not extractable), is not shown (sensitive), and does one thing.
 * A key that wraps, encrypts or derives besides would let out, or copy, whatever a workload can make it work on.
 */
void make_template(const struct new_key *key, struct template *template) {
  *template = (struct template){.class = key->class, .on_token = key->on_token};
  add(template, CKA_CLASS, &template->class, sizeof template->class);
  add(template, CKA_KEY_TYPE, &key->type, sizeof key->type);
  add(template, CKA_TOKEN, &template->on_token, 1);
  add_flag(template, CKA_PRIVATE, true);
  add_flag(template, CKA_SENSITIVE, true);
  add_flag(template, CKA_EXTRACTABLE, false);
  add_flag(template, CKA_SIGN, key->use == USE_SIGN);
  add_flag(template, CKA_DECRYPT, key->use == USE_DECRYPT);
  add_flag(template, CKA_UNWRAP, false);
  add_flag(template, CKA_DERIVE, false);
  if (key->class == CKO_SECRET_KEY) {
    add_flag(template, CKA_ENCRYPT, false);
    add_flag(template, CKA_VERIFY, false);
    add_flag(template, CKA_WRAP, false);
  } else {
    add_flag(template, CKA_SIGN_RECOVER, false);
  }
  size_t size = key->mechanism_count * sizeof key->mechanisms[0];
  if (size > 0) add(template, CKA_ALLOWED_MECHANISMS, key->mechanisms, size);
  if (key->label_length > 0) add(template, CKA_LABEL, key->label, key->label_length);
  if (key->id_length > 0) add(template, CKA_ID, key->id, key->id_length);
}

bool matches_template(const struct shim *shim, CK_ULONG object, const struct template *template) {
  for (CK_ULONG i = 0; i < template->count; i++) {
    const struct ck_attribute *wanted = &template->attributes[i];
    uint8_t value[MAX_LABEL];
    long length = read_attribute(shim, object, wanted->type, value, sizeof value);
    if (length < 0 || (CK_ULONG)length != wanted->length) return false;
    if (memcmp(value, wanted->value, wanted->length) != 0) return false;
  }
  return true;
}
