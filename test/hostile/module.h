/* What a stand-in for a PKCS#11 module answers where its test does not care: one slot, texts of spaces, any PIN. */
#pragma once

#include <stddef.h>
#include <string.h>

#include "pkcs11.h"

static inline CK_RV blank_info(struct ck_info *info) {
  memset(info, ' ', sizeof *info);
  return CKR_OK;
}

static inline CK_RV one_slot(CK_BYTE present, CK_ULONG *slots, CK_ULONG *count) {
  (void)present;
  slots[0] = 0;
  *count = 1;
  return CKR_OK;
}

/* The texts; flags and versions stay as they are. */
static inline CK_RV blank_token(CK_ULONG slot, struct ck_token_info *info) {
  (void)slot;
  memset(info, ' ', offsetof(struct ck_token_info, flags));
  return CKR_OK;
}

static inline CK_RV any_pin(CK_ULONG session, CK_ULONG user, CK_BYTE *pin, CK_ULONG length) {
  (void)session, (void)user, (void)pin, (void)length;
  return CKR_OK;
}
