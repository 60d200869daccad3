/*
 * The least that a log-in takes: a process that loads the library, initialises it, finds the token by its label and logs in. Arguments: library, label;
 * the PIN comes on standard input.
 */
#include <stdio.h>
#include <string.h>

#include "load.h"
#include "pkcs11.h"

static int failed(const char *what) {
  (void)fprintf(stderr, "bare-login: %s\n", what);
  return 1;
}

static CK_RV login(const struct ck_function_list *list, const char *label, CK_BYTE *pin, CK_ULONG length) {
  CK_ULONG slots[16], count = 16, session;
  CK_RV rv = list->get_slot_list(1, slots, &count);
  for (CK_ULONG i = 0; rv == CKR_OK && i < count; i++) {
    struct ck_token_info info;
    rv = list->get_token_info(slots[i], &info);
    if (rv != CKR_OK || memcmp(info.label, label, strlen(label)) != 0) continue;
    rv = list->open_session(slots[i], CKF_SERIAL_SESSION, NULL, NULL, &session);
    return rv == CKR_OK ? list->login(session, CKU_USER, pin, length) : rv;
  }
  return rv == CKR_OK ? CKR_GENERAL_ERROR : rv;
}

int main(int argc, char **argv) {
  char pin[256];
  void *handle = argc == 3 ? dlopen(argv[1], SHIM_DLOPEN_FLAGS) : NULL;
  ck_get_function_list get = handle == NULL ? NULL : (ck_get_function_list)dlsym(handle, "C_GetFunctionList");
  struct ck_function_list *list = NULL;
  struct ck_initialize_args args = {.flags = CKF_LIBRARY_CANT_CREATE_OS_THREADS};
  if (get == NULL || get(&list) != CKR_OK || list->initialize(&args) != CKR_OK) return failed("library");
  if (fgets(pin, sizeof pin, stdin) == NULL) return failed("no PIN");
  return login(list, argv[2], (CK_BYTE *)pin, strcspn(pin, "\n")) == CKR_OK ? 0 : failed("log-in");
}
