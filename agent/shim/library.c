#include <link.h>
#include <string.h>
#include <syslog.h>

#include "load.h"
#include "shim.h"

enum { MAX_SLOTS = 16, MAX_OBJECTS = 128, MAX_TEXT = 512 };

struct object_list { struct writer *out; uint16_t count; };

static int add_object(struct dl_phdr_info *info, size_t size, void *context) {
  struct object_list *list = context;
  (void)size;
  if (info->dlpi_name == NULL || info->dlpi_name[0] == 0) return 0;
  if (list->count >= MAX_OBJECTS) return 1;
  write_sized16(list->out, info->dlpi_name, strlen(info->dlpi_name));
  list->count++;
  return 0;
}

static void write_objects(struct writer *out) {
  struct object_list list = {.out = out};
  size_t at = out->length;
  write_u16(out, 0);
  dl_iterate_phdr(add_object, &list);
  patch_u16(out, at, list.count);
}

static CK_RV write_info(const struct ck_function_list *list, struct writer *out) {
  struct ck_info info = {0};
  CK_RV rv = list->get_info(&info);
  if (rv != CKR_OK) return rv;
  write_bytes(out, &info.cryptoki, 2);
  write_bytes(out, info.manufacturer, sizeof info.manufacturer);
  write_bytes(out, info.description, sizeof info.description);
  write_bytes(out, &info.library, 2);
  return CKR_OK;
}

static CK_RV write_slots(const struct ck_function_list *list, struct writer *out) {
  CK_ULONG slots[MAX_SLOTS], count = MAX_SLOTS;
  CK_RV rv = list->get_slot_list(1, slots, &count);
  if (rv != CKR_OK) return rv;
  if (count > MAX_SLOTS) return CKR_GENERAL_ERROR;
  write_u8(out, (uint8_t)count);
  for (CK_ULONG i = 0; i < count; i++) {
    struct ck_token_info token = {0};
    rv = list->get_token_info(slots[i], &token);
    if (rv != CKR_OK) return rv;
    write_u64(out, slots[i]);
    write_bytes(out, token.label, sizeof token.label);
    write_bytes(out, token.manufacturer, sizeof token.manufacturer);
    write_bytes(out, token.model, sizeof token.model);
    write_bytes(out, token.serial, sizeof token.serial);
    write_u64(out, token.flags);
    write_bytes(out, &token.firmware, 2);
    write_bytes(out, &token.hardware, 2);
  }
  return CKR_OK;
}

/* Keeps the few functions that an op needs; no message can lead to another one. */
static CK_RV keep_functions(const struct ck_function_list *list, struct library *library) {
  *library = (struct library){
      .open_session = list->open_session,
      .close_session = list->close_session,
      .login = list->login,
      .get_attribute_value = list->get_attribute_value,
      .find_objects_init = list->find_objects_init,
      .find_objects = list->find_objects,
      .find_objects_final = list->find_objects_final,
      .sign_init = list->sign_init,
      .sign = list->sign,
      .decrypt_init = list->decrypt_init,
      .decrypt = list->decrypt,
      .unwrap_key = list->unwrap_key,
  };
  /* A library without decryption or unwrapping serves: op_decrypt and op_unwrap look. */
  bool complete = list->initialize && list->get_info && list->get_slot_list && list->get_token_info &&
                  library->open_session && library->login && library->get_attribute_value &&
                  library->find_objects_init && library->find_objects && library->find_objects_final &&
                  library->sign_init && library->sign;
  return complete ? CKR_OK : CKR_GENERAL_ERROR;
}

CK_RV library_rv(CK_RV rv) { return rv >= RV_NOT_TRIED && rv <= RV_UNFIT_ON_TOKEN ? CKR_GENERAL_ERROR : rv; }

static CK_RV explain_failure(struct writer *out) {
  const char *text = dlerror();
  if (text != NULL) write_bytes(out, text, strnlen(text, MAX_TEXT));
  return CKR_GENERAL_ERROR;
}

/*
 * No priority passes, so that syslog(3) returns before it asks for a socket. Nobody listens here, and the attempt would be shown as an attack:
 * SoftHSM logs every ciphertext that does not decrypt, and any workload can send one.
 */
static void silence_log(void) { (void)setlogmask(1 << (LOG_PRIMASK + 1)); }

static CK_RV load_library(struct shim *shim, const char *path, struct writer *out) {
  silence_log();
  void *handle = dlopen(path, SHIM_DLOPEN_FLAGS);
  if (handle == NULL) return explain_failure(out);
  ck_get_function_list get = (ck_get_function_list)dlsym(handle, "C_GetFunctionList");
  if (get == NULL) return explain_failure(out);
  struct ck_function_list *list = NULL;
  CK_RV rv = get(&list);
  if (rv != CKR_OK || list == NULL) return rv == CKR_OK ? CKR_GENERAL_ERROR : rv;
  rv = keep_functions(list, &shim->library);
  if (rv != CKR_OK) return rv;
  struct ck_initialize_args args = {.flags = CKF_LIBRARY_CANT_CREATE_OS_THREADS};
  rv = list->initialize(&args);
  if (rv != CKR_OK) return rv;
  size_t start = out->length;
  rv = write_info(list, out);
  if (rv == CKR_OK) rv = write_slots(list, out);
  if (rv == CKR_OK) write_objects(out);
  else out->length = start;
  return rv;
}

CK_RV op_load(struct shim *shim, struct reader *in, struct writer *out) {
  char path[MAX_PATH + 1];
  bool usable = read_path(in, path);
  if (shim->phase != PHASE_FRESH) return CKR_FUNCTION_NOT_SUPPORTED;
  /* dlopen would expand $ORIGIN and the like. */
  if (!usable || strchr(path, '$') != NULL) return CKR_ARGUMENTS_BAD;
  CK_RV rv = load_library(shim, path, out);
  shim->phase = rv == CKR_OK ? PHASE_LOADED : PHASE_FAILED;
  return rv;
}
