/*
 * Loads a library as the shim does and uses it: C_Initialize and, with a PIN on standard input, a log-in to its first token and a signature with the first
 * EC key there. Then prints every object that is mapped, one on a line, and the last return value.
 */
#include <link.h>
#include <stdio.h>
#include <string.h>

#include "load.h"
#include "pkcs11.h"

#define CKK_EC 3UL

static int print_object(struct dl_phdr_info *info, size_t size, void *context) {
  (void)size;
  (void)context;
  if (info->dlpi_name[0] == '/') (void)puts(info->dlpi_name);
  return 0;
}

static CK_RV sign(const struct ck_function_list *list, CK_ULONG session) {
  CK_ULONG class = CKO_PRIVATE_KEY, type = CKK_EC, key, count = 0;
  struct ck_attribute wanted[] = {{CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type}};
  CK_RV rv = list->find_objects_init(session, wanted, 2);
  if (rv == CKR_OK) rv = list->find_objects(session, &key, 1, &count);
  if (rv == CKR_OK) rv = list->find_objects_final(session);
  if (rv != CKR_OK || count != 1) return rv == CKR_OK ? CKR_KEY_HANDLE_INVALID : rv;
  struct ck_mechanism mechanism = {.type = CKM_ECDSA};
  CK_BYTE data[32] = {1}, signature[256];
  CK_ULONG length = sizeof signature;
  rv = list->sign_init(session, &mechanism, key);
  return rv == CKR_OK ? list->sign(session, data, sizeof data, signature, &length) : rv;
}

static CK_RV use(const struct ck_function_list *list) {
  struct ck_initialize_args args = {.flags = CKF_LIBRARY_CANT_CREATE_OS_THREADS};
  char pin[256] = "";
  CK_ULONG slot, count = 1, session;
  CK_RV rv = list->initialize(&args);
  if (rv != CKR_OK || fgets(pin, sizeof pin, stdin) == NULL) return rv;
  CK_ULONG slots[16];
  count = 16;
  rv = list->get_slot_list(1, slots, &count);
  if (rv != CKR_OK || count == 0) return rv;
  slot = slots[0];
  rv = list->open_session(slot, CKF_SERIAL_SESSION, NULL, NULL, &session);
  if (rv == CKR_OK) rv = list->login(session, CKU_USER, (CK_BYTE *)pin, strcspn(pin, "\n"));
  return rv == CKR_OK ? sign(list, session) : rv;
}

int main(int argc, char **argv) {
  void *handle = argc == 2 ? dlopen(argv[1], SHIM_DLOPEN_FLAGS) : NULL;
  ck_get_function_list get = handle == NULL ? NULL : (ck_get_function_list)dlsym(handle, "C_GetFunctionList");
  struct ck_function_list *list = NULL;
  if (get == NULL || get(&list) != CKR_OK || list == NULL) {
    (void)fprintf(stderr, "objects: %s\n", handle == NULL ? dlerror() : "no function list");
    return 1;
  }
  CK_RV rv = use(list);
  (void)dl_iterate_phdr(print_object, NULL);
  (void)printf("rv 0x%lx\n", rv);
  return 0;
}
