#include <stdio.h>
#include <unistd.h>

#include "shim.h"

/* Tells the agent that the token has lost no try: only then may the same PIN be tried again. */
static CK_RV not_tried(struct writer *out, const char *what, CK_RV rv) {
  char text[64];
  int length = snprintf(text, sizeof text, "%s 0x%lx", what, rv);
  if (length > 0 && (size_t)length < sizeof text) write_bytes(out, text, (size_t)length);
  return RV_NOT_TRIED;
}

/* The PIN goes from the channel into locked pages, to the library, and is wiped. */
static CK_RV login_once(struct shim *shim, CK_ULONG slot, struct writer *out) {
  CK_RV rv = shim->library.open_session(slot, CKF_SERIAL_SESSION, NULL, NULL, &shim->session);
  if (rv != CKR_OK) return not_tried(out, "C_OpenSession", rv);
  struct credential *pin;
  rv = take_credential(MAX_PIN, &pin);
  if (rv != CKR_OK) return not_tried(out, "credential channel", rv);
  rv = shim->library.login(shim->session, CKU_USER, pin->bytes, pin->length);
  drop_credential(pin);
  return library_rv(rv);
}

CK_RV op_login(struct shim *shim, struct reader *in, struct writer *out) {
  CK_ULONG slot = read_u64(in);
  expect_end(in);
  if (shim->phase != PHASE_LOADED) return CKR_FUNCTION_NOT_SUPPORTED;
  /* Once: tokens lock themselves after a few wrong PINs. Whatever is left in the channel is no PIN for anything here. */
  shim->phase = PHASE_FAILED;
  shim->slot = slot;
  CK_RV rv = login_once(shim, slot, out);
  if (close(CREDENTIAL_FD) != 0 && rv == CKR_OK) rv = CKR_GENERAL_ERROR;
  if (rv == CKR_OK) shim->phase = PHASE_LOGGED_IN;
  return rv;
}
