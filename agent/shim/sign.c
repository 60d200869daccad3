#include "shim.h"

enum { MAX_SIGNATURE = 8192, MAX_DATA = 65536, MAX_SALT = 512 };

/* Second gate for what the agent's policy decides: raw RSA and MACs cannot be asked for at all. */
static bool may_sign_with(CK_ULONG mechanism) {
  return mechanism == CKM_RSA_PKCS || mechanism == CKM_RSA_PKCS_PSS ||
         (mechanism >= CKM_SHA256_RSA_PKCS && mechanism <= CKM_SHA512_RSA_PKCS_PSS) || mechanism == CKM_ECDSA ||
         (mechanism >= CKM_ECDSA_SHA256 && mechanism <= CKM_ECDSA_SHA512) || mechanism == CKM_EDDSA;
}

static bool is_pss(CK_ULONG mechanism) {
  return mechanism == CKM_RSA_PKCS_PSS ||
         (mechanism >= CKM_SHA256_RSA_PKCS_PSS && mechanism <= CKM_SHA512_RSA_PKCS_PSS);
}

static bool is_listed(const struct token *token, CK_ULONG key) {
  for (size_t i = 0; i < token->key_count; i++) {
    if (token->keys[i] == key) return true;
  }
  return false;
}

struct sign_request {
  CK_ULONG slot, key, mechanism;
  uint8_t has_pss;
  struct ck_pss_params pss;
  size_t length;
  const uint8_t *data;
};

static struct sign_request parse_request(struct reader *in) {
  struct sign_request request = {.slot = read_u64(in)};
  request.key = read_u64(in);
  request.mechanism = read_u64(in);
  request.has_pss = read_u8(in);
  if (request.has_pss > 1) in->bad = true;
  if (request.has_pss == 1) {
    request.pss.hash = read_u64(in);
    request.pss.mgf = read_u64(in);
    request.pss.salt_length = read_u64(in);
  }
  request.length = read_u32(in);
  if (request.length > MAX_DATA) in->bad = true;
  request.data = read_bytes(in, request.length);
  expect_end(in);
  return request;
}

static CK_RV check_request(const struct token *token, const struct sign_request *request) {
  if (token == NULL) return CKR_SLOT_ID_INVALID;
  if (!is_listed(token, request->key)) return CKR_KEY_HANDLE_INVALID;
  if (!may_sign_with(request->mechanism)) return CKR_MECHANISM_INVALID;
  if (is_pss(request->mechanism) != (request->has_pss == 1)) return CKR_MECHANISM_PARAM_INVALID;
  if (request->pss.salt_length > MAX_SALT) return CKR_MECHANISM_PARAM_INVALID;
  return CKR_OK;
}

CK_RV op_sign(struct shim *shim, struct reader *in, struct writer *out) {
  struct sign_request request = parse_request(in);
  if (shim->phase != PHASE_LOGGED_IN) return CKR_FUNCTION_NOT_SUPPORTED;
  const struct token *token = find_token(shim, request.slot);
  CK_RV rv = check_request(token, &request);
  if (rv != CKR_OK) return rv;
  struct ck_mechanism mechanism = {.type = request.mechanism};
  if (request.has_pss == 1) {
    mechanism.parameter = &request.pss;
    mechanism.length = sizeof request.pss;
  }
  rv = shim->library.sign_init(token->session, &mechanism, request.key);
  if (rv != CKR_OK) return rv;
  CK_BYTE signature[MAX_SIGNATURE];
  CK_ULONG length = sizeof signature;
  rv = shim->library.sign(token->session, request.data, request.length, signature, &length);
  if (rv != CKR_OK) return rv;
  if (length == 0 || length > sizeof signature) return CKR_GENERAL_ERROR;
  write_bytes(out, signature, length);
  shim->operations++;
  return CKR_OK;
}
