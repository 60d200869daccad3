#include <string.h>
#include <time.h>

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

int64_t monotonic(void) {
  struct timespec now = {0};
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* What the library read when it got ready may be old by then: nanoseconds. */
static const int64_t STALE = 1000000000;

static CK_RV initialise(const struct shim *shim, CK_ULONG session, struct signer *signer) {
  struct ck_mechanism mechanism = {.type = signer->mechanism};
  if (signer->has_pss == 1) {
    mechanism.parameter = &signer->pss;
    mechanism.length = sizeof signer->pss;
  }
  return shim->library.sign_init(session, &mechanism, signer->key);
}

static bool is_same(const struct signer *signer, const struct sign_request *request) {
  return signer->key == request->key && signer->mechanism == request->mechanism &&
         signer->has_pss == request->has_pss && memcmp(&signer->pss, &request->pss, sizeof signer->pss) == 0;
}

/* An operation that was begun ends with its session: there is no other way that every library knows. */
static void reset_signer(const struct shim *shim, struct signer *signer) {
  if (signer->session != 0) (void)shim->library.close_session(signer->session);
  *signer = (struct signer){0};
}

/* Without a session where the token has none left for it. */
static void open_signer(const struct shim *shim, struct signer *signer, const struct sign_request *request) {
  reset_signer(shim, signer);
  *signer = (struct signer){.key = request->key, .mechanism = request->mechanism, .has_pss = request->has_pss, .pss = request->pss};
  if (!shim->library.close_session) return;
  CK_RV rv = shim->library.open_session(shim->slot, CKF_SERIAL_SESSION, NULL, NULL, &signer->session);
  if (rv != CKR_OK) signer->session = 0;
}

/* MAX_SIGNERS where there is none. */
static size_t index_of(const struct shim *shim, const struct sign_request *request) {
  if (is_same(&shim->signers[shim->last_signer], request)) return shim->last_signer;
  size_t index = 0;
  while (index < MAX_SIGNERS && !is_same(&shim->signers[index], request)) index++;
  return index;
}

static size_t least_recently_used(const struct shim *shim) {
  size_t oldest = 0;
  for (size_t i = 1; i < MAX_SIGNERS; i++)
    if (shim->signers[i].used < shim->signers[oldest].used) oldest = i;
  return oldest;
}

/* The signer for this key and mechanism; where there is none, in the place of the one that was used least recently, which is no more. */
static struct signer *find_signer(struct shim *shim, const struct sign_request *request) {
  size_t index = index_of(shim, request);
  bool found = index < MAX_SIGNERS;
  shim->last_signer = found ? index : least_recently_used(shim);
  struct signer *signer = &shim->signers[shim->last_signer];
  if (!found) open_signer(shim, signer, request);
  return signer;
}

bool signs_within(const struct shim *shim, struct reader payload, int64_t nanoseconds) {
  struct sign_request request = parse_request(&payload);
  size_t index = index_of(shim, &request);
  return index < MAX_SIGNERS && shim->signers[index].took > 0 && shim->signers[index].took <= nanoseconds;
}

void sign_ahead(struct shim *shim) {
  struct signer *signer = &shim->signers[shim->last_signer];
  if (signer->session == 0 || signer->initialised || signer->seldom) return;
  signer->initialised = initialise(shim, signer->session, signer) == CKR_OK;
  signer->since = monotonic();
  if (!signer->initialised) reset_signer(shim, signer); /* whatever the library has left of it */
}

CK_RV op_sign(struct shim *shim, struct reader *in, struct writer *out) {
  struct sign_request request = parse_request(in);
  if (shim->phase != PHASE_LOGGED_IN) return CKR_FUNCTION_NOT_SUPPORTED;
  CK_RV rv = check_request(shim, &request);
  if (rv != CKR_OK) return rv;
  struct signer *signer = find_signer(shim, &request);
  int64_t now = monotonic();
  bool seldom = signer->used != 0 && now - signer->used > STALE;
  if (signer->initialised && now - signer->since > STALE) open_signer(shim, signer, &request);
  /* A token that has no session left for it signs in the one it has. */
  CK_ULONG session = signer->session == 0 ? shim->session : signer->session;
  if (!signer->initialised) rv = initialise(shim, session, signer);
  if (signer->session != 0 && (rv == CKR_SESSION_HANDLE_INVALID || rv == CKR_SESSION_CLOSED)) {
    /* This session alone may have ended, of idleness; if the log-in has ended, the next one says so. No signature was made. */
    open_signer(shim, signer, &request);
    session = signer->session == 0 ? shim->session : signer->session;
    rv = initialise(shim, session, signer);
  }
  signer->initialised = false;
  if (rv != CKR_OK) reset_signer(shim, signer);
  if (rv != CKR_OK) return rv;
  signer->seldom = seldom;
  signer->used = now;
  CK_BYTE signature[MAX_RESULT];
  CK_ULONG length = sizeof signature;
  rv = shim->library.sign(session, request.data, request.length, signature, &length);
  if (rv != CKR_OK) reset_signer(shim, signer); /* whatever the library has left of it */
  if (rv != CKR_OK) return rv;
  signer->took = monotonic() - now;
  if (length == 0 || length > sizeof signature) return CKR_GENERAL_ERROR;
  write_bytes(out, signature, length);
  shim->operations++;
  return CKR_OK;
}
