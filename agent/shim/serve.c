#include "shim.h"

enum op {
  OP_PROBE = 2, OP_LOAD = 3, OP_LOGIN = 4, OP_KEYS = 5, OP_SIGN = 6, OP_ARM = 7, OP_STATUS = 8, OP_CREDENTIAL = 9
};

struct token *find_token(struct shim *shim, CK_ULONG slot) {
  for (size_t i = 0; i < shim->token_count; i++) {
    if (shim->tokens[i].slot == slot) return &shim->tokens[i];
  }
  return NULL;
}

CK_RV op_arm(struct shim *shim, struct reader *in, struct writer *out) {
  expect_end(in);
  if (shim->armed || (shim->phase != PHASE_LOADED && shim->phase != PHASE_LOGGED_IN)) return CKR_FUNCTION_NOT_SUPPORTED;
  if (!close_channel(shim) || confine_more(&shim->confinement, FILTER_SERVE) != 0) return CKR_GENERAL_ERROR;
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
    default: return CKR_FUNCTION_NOT_SUPPORTED;
  }
}

void serve(struct shim *shim) {
  static uint8_t buffer[MAX_FRAME];
  static struct writer reply;
  struct request request;
  uint32_t last = 0;
  while (next_request(buffer, &request)) {
    if (request.id <= last) fail(EXIT_PROTOCOL, "request id used again");
    last = request.id;
    reply_begin(&reply, request.id, request.op);
    size_t start = reply.length;
    CK_RV rv = dispatch(shim, &request, &reply);
    /* A refusal carries no half-written payload; LOAD's has the loader's text. */
    if (rv != CKR_OK && request.op != OP_LOAD) reply.length = start;
    reply_end(&reply, rv);
  }
}
