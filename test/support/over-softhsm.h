/* For libraries that put something in front of SoftHSM: linked against libsofthsm2.so, they export one function list of their own. */
#ifndef IRONCLAW_OVER_SOFTHSM_H
#define IRONCLAW_OVER_SOFTHSM_H

#include "pkcs11.h"

#define EXPORTED __attribute__((visibility("default")))

CK_RV C_Initialize(struct ck_initialize_args *);
CK_RV C_GetInfo(struct ck_info *);
CK_RV C_GetSlotList(CK_BYTE, CK_ULONG *, CK_ULONG *);
CK_RV C_GetTokenInfo(CK_ULONG, struct ck_token_info *);
CK_RV C_OpenSession(CK_ULONG, CK_ULONG, void *, void *, CK_ULONG *);
CK_RV C_CloseSession(CK_ULONG);
CK_RV C_Login(CK_ULONG, CK_ULONG, CK_BYTE *, CK_ULONG);
CK_RV C_GetAttributeValue(CK_ULONG, CK_ULONG, struct ck_attribute *, CK_ULONG);
CK_RV C_FindObjectsInit(CK_ULONG, struct ck_attribute *, CK_ULONG);
CK_RV C_FindObjects(CK_ULONG, CK_ULONG *, CK_ULONG, CK_ULONG *);
CK_RV C_FindObjectsFinal(CK_ULONG);
CK_RV C_SignInit(CK_ULONG, struct ck_mechanism *, CK_ULONG);
CK_RV C_Sign(CK_ULONG, const CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *);

/* All that a token for signing needs, with these two functions in the place of SoftHSM's. */
#define OVER_SOFTHSM(own_initialize, own_sign)                                                                             \
  {                                                                                                                        \
    .version = {2, 40}, .initialize = own_initialize, .get_info = C_GetInfo, .get_slot_list = C_GetSlotList,              \
    .get_token_info = C_GetTokenInfo, .open_session = C_OpenSession, .close_session = C_CloseSession, .login = C_Login,    \
    .get_attribute_value = C_GetAttributeValue, .find_objects_init = C_FindObjectsInit, .find_objects = C_FindObjects,     \
    .find_objects_final = C_FindObjectsFinal, .sign_init = C_SignInit, .sign = own_sign                                    \
  }

#endif
