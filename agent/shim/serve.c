#include "shim.h"

enum op {
  OP_PROBE = 2, OP_LOAD = 3, OP_LOGIN = 4, OP_KEYS = 5, OP_SIGN = 6, OP_ARM = 7, OP_STATUS = 8, OP_CREDENTIAL = 9,
  OP_DECRYPT = 10, OP_UNWRAP = 11, OP_USES = 12
};

CK_RV op_arm(struct shim *shim, struct reader *in, struct writer *out) {
  expect_end(in);
  if (shim->phase != PHASE_LOGGED_IN || shim->armed) return CKR_FUNCTION_NOT_SUPPORTED;
  if (confine_more(&shim->confinement, FILTER_SERVE) != 0) return CKR_GENERAL_ERROR;
  shim->armed = true;
  write_u8(out, shim->confinement.filters);
  return CKR_OK;
}

CK_RV op_status(struct shim *shim, struct reader *in, struct writer *out) {
  expect_end(in);
  write_u64(out, shim->operations);
  return CKR_OK;
}

/* The whole table. Anything else does nothing; its payload is not looked at. */
static CK_RV dispatch(struct shim *shim, struct request *request, struct writer *out) {
  switch (request->op) {
    case OP_PROBE: return op_probe(shim, &request->payload, out);
    case OP_LOAD: return op_load(shim, &request->payload, out);
    case OP_LOGIN: return op_login(shim, &request->payload, out);
    case OP_KEYS: return op_keys(shim, &request->payload, out);
    case OP_SIGN: return op_sign(shim, &request->payload, out);
    case OP_ARM: return op_arm(shim, &request->payload, out);
    case OP_STATUS: return op_status(shim, &request->payload, out);
    case OP_CREDENTIAL: return op_credential(shim, &request->payload, out);
    case OP_DECRYPT: return op_decrypt(shim, &request->payload, out);
    case OP_UNWRAP: return op_unwrap(shim, &request->payload, out);
    case OP_USES: return op_uses(shim, &request->payload, out);
    default: return CKR_FUNCTION_NOT_SUPPORTED;
  }
}

/* Ids are used once: they ascend, and begin again only when there are no more. */
static bool follows(uint32_t id, uint32_t last) { return last == UINT32_MAX ? id > 0 : id > last; }

/* Nanoseconds that a reply waits for the next one of its batch, while SOME requests wait: one write and one wake-up for all of them. Longer where so MANY wait that nobody is idle meanwhile. */
enum { BATCH = 200000, LONG_BATCH = 1000000, SOME = 4, MANY = 24 };

static bool batch_goes_on(int64_t begun) {
  if (!has_requests(SOME)) return false;
  int64_t passed = monotonic() - begun;
  return passed < BATCH || (passed < LONG_BATCH && has_requests(MANY));
}

void serve(struct shim *shim) {
  static struct writer reply;
  struct request request;
  uint32_t last = 0;
  int64_t begun = monotonic();
  begin_stream();
  while (next_request(&request)) {
    if (!follows(request.id, last)) fail(EXIT_PROTOCOL, "request id used again");
    last = request.id;
    /* What may take long, or for ever, does not keep what is done from the agent. */
    if (holds_replies() && !(request.op == OP_SIGN && signs_within(shim, request.payload, BATCH))) flush_replies();
    reply_begin(&reply, request.id, request.op);
    size_t start = reply.length;
    CK_RV rv = dispatch(shim, &request, &reply);
    /* A refusal carries no half-written payload; those of LOAD and LOGIN have a text. */
    if (rv != CKR_OK && request.op != OP_LOAD && request.op != OP_LOGIN) reply.length = start;
    reply_end(&reply, rv);
    if (batch_goes_on(begun)) continue;
    flush_replies();
    if (!has_requests(1)) sign_ahead(shim);
    begun = monotonic();
  }
}
