/*
 * The workload that brings a wrapped key back: restorer MODULE BLOB [extractable]. Hands the file's bytes to C_UnwrapKey with RSA-OAEP of SHA-1, for the
 * first private key that the module shows, and prints the function that failed or the last one, with its CK_RV.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "pkcs11.h"

#define CKM_SHA_1 0x220UL
#define CKG_MGF1_SHA1 1UL
#define CKZ_DATA_SPECIFIED 1UL

static int report(const char *function, CK_RV rv) {
  (void)printf("%s: 0x%lx\n", function, rv);
  return rv == CKR_OK ? 0 : 1;
}

static int unwrap(const struct ck_function_list *list, CK_ULONG session, CK_ULONG key, const char *file, int extractable) {
  CK_BYTE blob[1024], yes = 1;
  FILE *from = fopen(file, "rb");
  size_t length = from == NULL ? 0 : fread(blob, 1, sizeof blob, from);
  if (from != NULL) (void)fclose(from);
  if (length == 0) return report("fopen", CKR_ARGUMENTS_BAD);
  struct ck_oaep_params oaep = {CKM_SHA_1, CKG_MGF1_SHA1, CKZ_DATA_SPECIFIED, NULL, 0};
  struct ck_mechanism mechanism = {CKM_RSA_PKCS_OAEP, &oaep, sizeof oaep};
  struct ck_attribute asked[] = {{CKA_EXTRACTABLE, &yes, sizeof yes}};
  CK_ULONG made;
  CK_RV rv = list->unwrap_key(session, &mechanism, key, blob, length, asked, extractable ? 1 : 0, &made);
  return report("C_UnwrapKey", rv);
}

int main(int count, char **arguments) {
  if (count < 3) return report("usage", CKR_ARGUMENTS_BAD);
  void *module = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
  ck_get_function_list get = NULL;
  if (module != NULL) *(void **)&get = dlsym(module, "C_GetFunctionList");
  struct ck_function_list *list;
  if (get == NULL || get(&list) != CKR_OK) return report("dlopen", CKR_GENERAL_ERROR);
  CK_RV rv = list->initialize(NULL);
  if (rv != CKR_OK) return report("C_Initialize", rv);
  CK_ULONG slot, slots = 1, session, key, keys = 0, class = CKO_PRIVATE_KEY;
  rv = list->get_slot_list(1, &slot, &slots);
  if (rv == CKR_OK) rv = list->open_session(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session);
  if (rv != CKR_OK) return report("C_OpenSession", rv);
  struct ck_attribute wanted[] = {{CKA_CLASS, &class, sizeof class}};
  rv = list->find_objects_init(session, wanted, 1);
  if (rv == CKR_OK) rv = list->find_objects(session, &key, 1, &keys);
  if (rv == CKR_OK) rv = list->find_objects_final(session);
  if (rv != CKR_OK || keys != 1) return report("C_FindObjects", rv == CKR_OK ? CKR_KEY_HANDLE_INVALID : rv);
  return unwrap(list, session, key, arguments[2], count > 3 && strcmp(arguments[3], "extractable") == 0);
}
