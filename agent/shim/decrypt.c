#include <string.h>

#include "shim.h"

enum { MAX_CIPHERTEXT = 8192 };

void read_cipher(struct reader *reader, struct cipher *cipher) {
  *cipher = (struct cipher){.type = read_u64(reader)};
  cipher->has_oaep = read_u8(reader);
  if (cipher->has_oaep > 1) reader->bad = true;
  if (cipher->has_oaep != 1) return;
  cipher->oaep.hash = read_u64(reader);
  cipher->oaep.mgf = read_u64(reader);
  cipher->oaep.source = CKZ_DATA_SPECIFIED;
  cipher->oaep.length = read_u16(reader);
  if (cipher->oaep.length > MAX_LABEL) reader->bad = true;
  const uint8_t *label = read_bytes(reader, cipher->oaep.length);
  /* Some libraries refuse an empty label that has an address. */
  if (cipher->oaep.length > 0) cipher->oaep.label = (void *)label;
}

CK_RV check_cipher(const struct cipher *cipher) {
  return (cipher->type == CKM_RSA_PKCS_OAEP) == (cipher->has_oaep == 1) ? CKR_OK : CKR_MECHANISM_PARAM_INVALID;
}

struct ck_mechanism cipher_mechanism(struct cipher *cipher) {
  struct ck_mechanism mechanism = {.type = cipher->type};
  if (cipher->has_oaep == 1) {
    mechanism.parameter = &cipher->oaep;
    mechanism.length = sizeof cipher->oaep;
  }
  return mechanism;
}

static uint8_t accepts_for(CK_ULONG mechanism) {
  if (mechanism == CKM_RSA_PKCS) return ACCEPTS_PKCS1;
  return mechanism == CKM_RSA_X_509 ? ACCEPTS_RAW : ACCEPTS_NONE;
}

static bool may_decrypt_with(CK_ULONG mechanism) {
  return mechanism == CKM_RSA_PKCS_OAEP || mechanism == CKM_RSA_PKCS || mechanism == CKM_RSA_X_509;
}

static CK_RV decrypt(const struct shim *shim, CK_ULONG key, struct cipher *cipher, const uint8_t *data, size_t length,
                     struct writer *out) {
  struct ck_mechanism mechanism = cipher_mechanism(cipher);
  CK_RV rv = shim->library.decrypt_init(shim->session, &mechanism, key);
  if (rv != CKR_OK) return rv;
  CK_BYTE plaintext[MAX_RESULT];
  CK_ULONG plaintext_length = sizeof plaintext;
  rv = shim->library.decrypt(shim->session, data, length, plaintext, &plaintext_length);
  if (rv == CKR_OK && plaintext_length > sizeof plaintext) rv = CKR_GENERAL_ERROR;
  if (rv == CKR_OK) write_bytes(out, plaintext, plaintext_length);
  explicit_bzero(plaintext, sizeof plaintext);
  return rv;
}

CK_RV op_decrypt(struct shim *shim, struct reader *in, struct writer *out) {
  CK_ULONG slot = read_u64(in), key = read_u64(in);
  struct cipher cipher;
  read_cipher(in, &cipher);
  size_t length = read_u16(in);
  if (length > MAX_CIPHERTEXT) in->bad = true;
  const uint8_t *data = read_bytes(in, length);
  expect_end(in);
  if (shim->phase != PHASE_LOGGED_IN || !shim->library.decrypt_init || !shim->library.decrypt) {
    return CKR_FUNCTION_NOT_SUPPORTED;
  }
  CK_RV rv = check_use(shim, slot, key, USE_DECRYPT, accepts_for(cipher.type));
  if (rv != CKR_OK) return rv;
  if (!may_decrypt_with(cipher.type)) return CKR_MECHANISM_INVALID;
  rv = check_cipher(&cipher);
  if (rv == CKR_OK) rv = decrypt(shim, key, &cipher, data, length, out);
  if (rv == CKR_OK) shim->operations++;
  return rv;
}
