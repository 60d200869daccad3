#include "shim.h"

enum { MAX_DATA = 65536, MAX_SALT = 512 };

/* Second gate for what the agent's policy decides: MACs cannot be asked for at all, raw RSA where policy accepts it. */
static bool may_sign_with(CK_ULONG mechanism) {
  return mechanism == CKM_RSA_PKCS || mechanism == CKM_RSA_PKCS_PSS ||
         (mechanism >= CKM_SHA256_RSA_PKCS && mechanism <= CKM_SHA512_RSA_PKCS_PSS) || mechanism == CKM_ECDSA ||
         (mechanism >= CKM_ECDSA_SHA256 && mechanism <= CKM_ECDSA_SHA512) || mechanism == CKM_EDDSA ||
         mechanism == CKM_RSA_X_509;
}

static bool is_pss(CK_ULONG mechanism) {
  return mechanism == CKM_RSA_PKCS_PSS ||
         (mechanism >= CKM_SHA256_RSA_PKCS_PSS && mechanism <= CKM_SHA512_RSA_PKCS_PSS);
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

static CK_RV check_request(const struct shim *shim, const struct sign_request *request) {
  uint8_t accepts = request->mechanism == CKM_RSA_X_509 ? ACCEPTS_RAW : ACCEPTS_NONE;
  CK_RV rv = check_use(shim, request->slot, request->key, USE_SIGN, accepts);
  if (rv != CKR_OK) return rv;
  if (!may_sign_with(request->mechanism)) return CKR_MECHANISM_INVALID;
  if (is_pss(request->mechanism) != (request->has_pss == 1)) return CKR_MECHANISM_PARAM_INVALID;
  if (request->pss.salt_length > MAX_SALT) return CKR_MECHANISM_PARAM_INVALID;
  return CKR_OK;
}

CK_RV op_sign(struct shim *shim, struct reader *in, struct writer *out) {
  struct sign_request request = parse_request(in);
  if (shim->phase != PHASE_LOGGED_IN) return CKR_FUNCTION_NOT_SUPPORTED;
  CK_RV rv = check_request(shim, &request);
  if (rv != CKR_OK) return rv;
  struct ck_mechanism mechanism = {.type = request.mechanism};
  if (request.has_pss == 1) {
    mechanism.parameter = &request.pss;
    mechanism.length = sizeof request.pss;
  }
  rv = shim->library.sign_init(shim->session, &mechanism, request.key);
  if (rv != CKR_OK) return rv;
  CK_BYTE signature[MAX_RESULT];
  CK_ULONG length = sizeof signature;
  rv = shim->library.sign(shim->session, request.data, request.length, signature, &length);
  if (rv != CKR_OK) return rv;
  if (length == 0 || length > sizeof signature) return CKR_GENERAL_ERROR;
  write_bytes(out, signature, length);
  shim->operations++;
  return CKR_OK;
}
