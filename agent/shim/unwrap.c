#include "shim.h"

enum { MAX_WRAPPED = 16384 };

struct unwrap_request {
  CK_ULONG slot, key;
  struct cipher cipher;
  struct new_key made;
  size_t length;
  const uint8_t *wrapped;
};

static const uint8_t *read_name(struct reader *in, size_t *length) {
  *length = read_u16(in);
  if (*length > MAX_LABEL) in->bad = true;
  return read_bytes(in, *length);
}

static void read_new_key(struct reader *in, struct new_key *key) {
  *key = (struct new_key){.class = read_u8(in)};
  key->type = read_u64(in);
  key->use = read_u8(in);
  key->on_token = read_u8(in);
  if (key->class != CKO_PRIVATE_KEY && key->class != CKO_SECRET_KEY) in->bad = true;
  if ((key->use != USE_SIGN && key->use != USE_DECRYPT) || key->on_token > 1) in->bad = true;
  key->mechanism_count = read_u8(in);
  if (key->mechanism_count > MAX_MECHANISMS) in->bad = true;
  for (size_t i = 0; !in->bad && i < key->mechanism_count; i++) {
    key->mechanisms[i] = read_u64(in);
    if (i > 0 && key->mechanisms[i] <= key->mechanisms[i - 1]) in->bad = true;
  }
  key->label = read_name(in, &key->label_length);
  key->id = read_name(in, &key->id_length);
}

static void read_request(struct reader *in, struct unwrap_request *request) {
  request->slot = read_u64(in);
  request->key = read_u64(in);
  read_cipher(in, &request->cipher);
  read_new_key(in, &request->made);
  request->length = read_u32(in);
  if (request->length == 0 || request->length > MAX_WRAPPED) in->bad = true;
  request->wrapped = read_bytes(in, request->length);
  expect_end(in);
}

static bool may_unwrap_with(CK_ULONG mechanism) {
  return mechanism == CKM_RSA_PKCS_OAEP || mechanism == CKM_AES_KEY_WRAP || mechanism == CKM_AES_KEY_WRAP_PAD;
}

/* No type whose bytes can be cut into keys of their own, as CKK_DES: those are guessed one by one. */
static bool may_become(const struct new_key *key) {
  if (key->class == CKO_SECRET_KEY) return key->type == CKK_GENERIC_SECRET || key->type == CKK_AES;
  return key->type == CKK_RSA || key->type == CKK_EC || key->type == CKK_EC_EDWARDS;
}

/* A second object of that name could be taken for the first one, or make the next launch refuse both. */
static CK_RV check_name(const struct shim *shim, CK_ULONG type, const uint8_t *name, size_t length) {
  struct ck_attribute wanted = {type, (void *)name, length};
  CK_ULONG found, count = 0;
  if (length == 0) return CKR_OK;
  CK_RV rv = find_objects(shim, &wanted, 1, &found, 1, &count);
  if (rv == CKR_BUFFER_TOO_SMALL || count > 0) return CKR_ATTRIBUTE_VALUE_INVALID;
  return rv;
}

/*
 * FNV-1a of what is to be unwrapped. The same bytes always have the same one; that others may as well only refuses more, and only
 * bytes that did unwrap are remembered: no digest is needed.
 */
static uint64_t fingerprint(const uint8_t *bytes, size_t length) {
  uint64_t print = 0xcbf29ce484222325;
  for (size_t i = 0; i < length; i++) print = (print ^ bytes[i]) * 0x100000001b3;
  return print;
}

/* Unwrapped twice for different ends, one key would do two things. */
static CK_RV check_history(const struct shim *shim, const struct new_key *key, uint64_t print) {
  for (size_t i = 0; i < shim->unwrapped_count; i++) {
    const struct unwrapped *old = &shim->unwrapped[i];
    bool same = old->class == key->class && old->use == key->use && old->type == key->type;
    if (old->print == print && !same) return CKR_KEY_FUNCTION_NOT_PERMITTED;
  }
  return shim->unwrapped_count < MAX_UNWRAPPED ? CKR_OK : CKR_DEVICE_MEMORY;
}

static CK_RV check_request(const struct shim *shim, const struct unwrap_request *request, uint64_t print) {
  const struct new_key *made = &request->made;
  CK_RV rv = check_use(shim, request->slot, request->key, USE_UNWRAP, ACCEPTS_NONE);
  if (rv != CKR_OK) return rv;
  if (!may_unwrap_with(request->cipher.type)) return CKR_MECHANISM_INVALID;
  rv = check_cipher(&request->cipher);
  if (rv != CKR_OK) return rv;
  if (!may_become(made)) return CKR_ATTRIBUTE_VALUE_INVALID;
  rv = check_history(shim, made, print);
  if (rv == CKR_OK) rv = check_name(shim, CKA_LABEL, made->label, made->label_length);
  if (rv == CKR_OK) rv = check_name(shim, CKA_ID, made->id, made->id_length);
  return rv;
}

/* A token object needs a read-write session: one that is open for this call alone. */
static CK_RV ask_library(const struct shim *shim, struct unwrap_request *request, struct template *template, CK_ULONG *made,
                         bool *closed) {
  CK_ULONG session = shim->session;
  struct ck_mechanism mechanism = cipher_mechanism(&request->cipher);
  *closed = true;
  if (request->made.on_token == 1) {
    CK_RV rv = shim->library.open_session(shim->slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session);
    if (rv != CKR_OK) return rv;
  }
  CK_RV rv = shim->library.unwrap_key(session, &mechanism, request->key, request->wrapped, request->length,
                                      template->attributes, template->count, made);
  if (request->made.on_token == 1) *closed = shim->library.close_session(session) == CKR_OK;
  return rv;
}

static void remember(struct shim *shim, const struct new_key *key, uint64_t print) {
  shim->unwrapped[shim->unwrapped_count++] =
      (struct unwrapped){.print = print, .class = key->class, .use = key->use, .type = key->type};
}

static CK_RV unwrap(struct shim *shim, struct unwrap_request *request, uint64_t print, struct writer *out) {
  struct template template;
  CK_ULONG made = 0;
  bool closed;
  make_template(&request->made, &template);
  CK_RV rv = ask_library(shim, request, &template, &made, &closed);
  if (rv != CKR_OK) return library_rv(rv);
  remember(shim, &request->made, print);
  /* Under the handle of another key it would have that one's use as well: what is known keeps what it has. */
  bool fresh = made != 0 && !is_known(shim, made);
  bool fit = fresh && closed && matches_template(shim, made, &template);
  if (fresh) fix_use(shim, made, fit ? request->made.use : USE_BARRED);
  if (!fit) return request->made.on_token == 1 ? RV_UNFIT_ON_TOKEN : RV_UNFIT;
  write_u64(out, made);
  shim->operations++;
  return CKR_OK;
}

CK_RV op_unwrap(struct shim *shim, struct reader *in, struct writer *out) {
  struct unwrap_request request;
  read_request(in, &request);
  const struct library *library = &shim->library;
  if (shim->phase != PHASE_LOGGED_IN || !library->unwrap_key || !library->close_session) return CKR_FUNCTION_NOT_SUPPORTED;
  uint64_t print = fingerprint(request.wrapped, request.length);
  CK_RV rv = check_request(shim, &request, print);
  return rv == CKR_OK ? unwrap(shim, &request, print, out) : rv;
}
