#include <string.h>

#include "shim.h"

static bool is_listed(const struct shim *shim, CK_ULONG key) {
  for (size_t i = 0; i < shim->listed_count; i++) {
    if (shim->listed[i] == key) return true;
  }
  return false;
}

static const struct key_use *find_use(const struct shim *shim, CK_ULONG key) {
  for (size_t i = 0; i < shim->use_count; i++) {
    if (shim->uses[i].key == key) return &shim->uses[i];
  }
  return NULL;
}

bool is_known(const struct shim *shim, CK_ULONG key) { return is_listed(shim, key) || find_use(shim, key) != NULL; }

void fix_use(struct shim *shim, CK_ULONG key, uint8_t use) {
  shim->uses[shim->use_count++] = (struct key_use){.key = key, .use = use};
}

CK_RV check_use(const struct shim *shim, CK_ULONG slot, CK_ULONG key, uint8_t use, uint8_t accepts) {
  if (slot != shim->slot) return CKR_SLOT_ID_INVALID;
  const struct key_use *fixed = find_use(shim, key);
  if (fixed == NULL && !is_listed(shim, key)) return CKR_KEY_HANDLE_INVALID;
  if (fixed == NULL && (shim->uses_fixed || shim->armed)) return CKR_KEY_FUNCTION_NOT_PERMITTED;
  if (fixed != NULL && (fixed->use & USE_MASK) != use) return CKR_KEY_FUNCTION_NOT_PERMITTED;
  uint8_t accepted = fixed == NULL ? ACCEPTS_NONE : fixed->use;
  return (accepted & accepts) == accepts ? CKR_OK : CKR_MECHANISM_INVALID;
}

struct uses_request { size_t count; bool here; struct key_use uses[MAX_KEYS]; };

static void read_uses(struct reader *in, CK_ULONG slot, struct uses_request *request) {
  request->count = read_u16(in);
  request->here = true;
  if (request->count > MAX_KEYS) in->bad = true;
  for (size_t i = 0; !in->bad && i < request->count; i++) {
    if (read_u64(in) != slot) request->here = false;
    request->uses[i].key = read_u64(in);
    uint8_t use = request->uses[i].use = read_u8(in);
    if ((use & USE_MASK) < USE_SIGN || (use & USE_MASK) > USE_UNWRAP) in->bad = true;
  }
  expect_end(in);
}

/* A handle that stands in the list twice, or came by UNWRAP, would do two things. */
static bool is_fixed_already(const struct shim *shim, const struct uses_request *request, size_t at) {
  for (size_t i = 0; i < at; i++) {
    if (request->uses[i].key == request->uses[at].key) return true;
  }
  return find_use(shim, request->uses[at].key) != NULL;
}

CK_RV op_uses(struct shim *shim, struct reader *in, struct writer *out) {
  struct uses_request request;
  (void)out;
  read_uses(in, shim->slot, &request);
  if (shim->phase != PHASE_LOGGED_IN || shim->uses_fixed || shim->armed) return CKR_FUNCTION_NOT_SUPPORTED;
  if (!request.here) return CKR_SLOT_ID_INVALID;
  for (size_t i = 0; i < request.count; i++) {
    if (!is_listed(shim, request.uses[i].key)) return CKR_KEY_HANDLE_INVALID;
    if (is_fixed_already(shim, &request, i)) return CKR_ARGUMENTS_BAD;
  }
  for (size_t i = 0; i < request.count; i++) fix_use(shim, request.uses[i].key, request.uses[i].use);
  shim->uses_fixed = true;
  return CKR_OK;
}
