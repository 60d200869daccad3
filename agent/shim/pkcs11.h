#ifndef IRONCLAW_SHIM_PKCS11_H
#define IRONCLAW_SHIM_PKCS11_H

/*
 * The part of PKCS#11 v2.40 (OASIS) that the shim uses, in the layout of Unix platforms (CK_ULONG = unsigned long, no
 * packing). Functions that the shim never calls stand in the list as `unused` fields only, to keep the offsets.
 */

typedef unsigned long CK_ULONG;
typedef CK_ULONG CK_RV;
typedef unsigned char CK_BYTE;

struct ck_version { CK_BYTE major, minor; };

struct ck_info {
  struct ck_version cryptoki;
  CK_BYTE manufacturer[32];
  CK_ULONG flags;
  CK_BYTE description[32];
  struct ck_version library;
};

struct ck_token_info {
  CK_BYTE label[32], manufacturer[32], model[16], serial[16];
  CK_ULONG flags;
  CK_ULONG unused[10];
  struct ck_version hardware, firmware;
  CK_BYTE utc_time[16];
};

struct ck_attribute { CK_ULONG type; void *value; CK_ULONG length; };
struct ck_mechanism { CK_ULONG type; void *parameter; CK_ULONG length; };
struct ck_pss_params { CK_ULONG hash, mgf, salt_length; };
struct ck_oaep_params { CK_ULONG hash, mgf, source; void *label; CK_ULONG length; };

struct ck_initialize_args {
  void *create_mutex, *destroy_mutex, *lock_mutex, *unlock_mutex;
  CK_ULONG flags;
  void *reserved;
};

struct ck_function_list {
  struct ck_version version;
  CK_RV (*initialize)(struct ck_initialize_args *);
  void *unused_finalize;
  CK_RV (*get_info)(struct ck_info *);
  void *unused_get_function_list;
  CK_RV (*get_slot_list)(CK_BYTE present, CK_ULONG *slots, CK_ULONG *count);
  void *unused_get_slot_info;
  CK_RV (*get_token_info)(CK_ULONG slot, struct ck_token_info *);
  void *unused_tokens[5]; /* mechanism list and info, init token, init pin, set pin */
  CK_RV (*open_session)(CK_ULONG slot, CK_ULONG flags, void *application, void *notify, CK_ULONG *session);
  CK_RV (*close_session)(CK_ULONG session);
  void *unused_sessions[4]; /* close all, info, get and set operation state */
  CK_RV (*login)(CK_ULONG session, CK_ULONG user, CK_BYTE *pin, CK_ULONG length);
  void *unused_objects[5]; /* logout, create, copy, destroy, size */
  CK_RV (*get_attribute_value)(CK_ULONG session, CK_ULONG object, struct ck_attribute *, CK_ULONG count);
  void *unused_set_attribute_value;
  CK_RV (*find_objects_init)(CK_ULONG session, struct ck_attribute *, CK_ULONG count);
  CK_RV (*find_objects)(CK_ULONG session, CK_ULONG *objects, CK_ULONG max, CK_ULONG *count);
  CK_RV (*find_objects_final)(CK_ULONG session);
  void *unused_encrypt[4]; /* init, encrypt, update, final */
  CK_RV (*decrypt_init)(CK_ULONG session, struct ck_mechanism *, CK_ULONG key);
  CK_RV (*decrypt)(CK_ULONG session, const CK_BYTE *data, CK_ULONG length, CK_BYTE *plaintext, CK_ULONG *plaintext_length);
  void *unused_decrypt[7]; /* update, final, digest x 5 */
  CK_RV (*sign_init)(CK_ULONG session, struct ck_mechanism *, CK_ULONG key);
  CK_RV (*sign)(CK_ULONG session, const CK_BYTE *data, CK_ULONG length, CK_BYTE *signature, CK_ULONG *signature_length);
  void *unused_sign[17]; /* sign x 2, sign recover x 2, verify x 6, dual x 4, generate key and pair, wrap key */
  CK_RV (*unwrap_key)(CK_ULONG session, struct ck_mechanism *, CK_ULONG key, const CK_BYTE *wrapped, CK_ULONG length,
                      struct ck_attribute *, CK_ULONG count, CK_ULONG *made);
  void *unused_rest[6]; /* derive key, seed, random, status, cancel, wait */
};

typedef CK_RV (*ck_get_function_list)(struct ck_function_list **);

#define CKR_OK 0x0UL
#define CKR_HOST_MEMORY 0x2UL
#define CKR_SLOT_ID_INVALID 0x3UL
#define CKR_GENERAL_ERROR 0x5UL
#define CKR_FUNCTION_FAILED 0x6UL
#define CKR_ARGUMENTS_BAD 0x7UL
#define CKR_ATTRIBUTE_VALUE_INVALID 0x13UL
#define CKR_DATA_LEN_RANGE 0x21UL
#define CKR_DEVICE_MEMORY 0x31UL
#define CKR_FUNCTION_NOT_SUPPORTED 0x54UL
#define CKR_KEY_HANDLE_INVALID 0x60UL
#define CKR_KEY_FUNCTION_NOT_PERMITTED 0x68UL
#define CKR_MECHANISM_INVALID 0x70UL
#define CKR_MECHANISM_PARAM_INVALID 0x71UL
#define CKR_SESSION_CLOSED 0xB0UL
#define CKR_SESSION_HANDLE_INVALID 0xB3UL
#define CKR_BUFFER_TOO_SMALL 0x150UL

#define CKF_LIBRARY_CANT_CREATE_OS_THREADS 0x1UL
#define CKF_RW_SESSION 0x2UL
#define CKF_SERIAL_SESSION 0x4UL
#define CKU_USER 1UL
#define CKO_PUBLIC_KEY 2UL
#define CKO_PRIVATE_KEY 3UL
#define CKO_SECRET_KEY 4UL

#define CKK_RSA 0x0UL
#define CKK_EC 3UL
#define CKK_GENERIC_SECRET 0x10UL
#define CKK_AES 0x1FUL
#define CKK_EC_EDWARDS 0x40UL

#define CKA_CLASS 0x0UL
#define CKA_TOKEN 0x1UL
#define CKA_PRIVATE 0x2UL
#define CKA_LABEL 0x3UL
#define CKA_KEY_TYPE 0x100UL
#define CKA_ID 0x102UL
#define CKA_SENSITIVE 0x103UL
#define CKA_ENCRYPT 0x104UL
#define CKA_DECRYPT 0x105UL
#define CKA_WRAP 0x106UL
#define CKA_UNWRAP 0x107UL
#define CKA_SIGN 0x108UL
#define CKA_SIGN_RECOVER 0x109UL
#define CKA_VERIFY 0x10AUL
#define CKA_DERIVE 0x10CUL
#define CKA_MODULUS 0x120UL
#define CKA_PUBLIC_EXPONENT 0x122UL
#define CKA_EXTRACTABLE 0x162UL
#define CKA_LOCAL 0x163UL
#define CKA_NEVER_EXTRACTABLE 0x164UL
#define CKA_ALWAYS_SENSITIVE 0x165UL
#define CKA_EC_PARAMS 0x180UL
#define CKA_EC_POINT 0x181UL
#define CKA_ALWAYS_AUTHENTICATE 0x202UL
#define CKA_ALLOWED_MECHANISMS 0x40000600UL

#define CKM_RSA_PKCS 0x1UL
#define CKM_RSA_X_509 0x3UL
#define CKM_RSA_PKCS_OAEP 0x9UL
#define CKM_RSA_PKCS_PSS 0xDUL
#define CKM_SHA256_RSA_PKCS 0x40UL
#define CKM_SHA512_RSA_PKCS 0x42UL
#define CKM_SHA256_RSA_PKCS_PSS 0x43UL
#define CKM_SHA512_RSA_PKCS_PSS 0x45UL
#define CKM_ECDSA 0x1041UL
#define CKM_ECDSA_SHA256 0x1044UL
#define CKM_ECDSA_SHA512 0x1046UL
#define CKM_EDDSA 0x1057UL
#define CKM_AES_KEY_WRAP 0x2109UL
#define CKM_AES_KEY_WRAP_PAD 0x210AUL

#define CKZ_DATA_SPECIFIED 1UL

#endif
