/*
 * A PKCS#11 module that says how each signature came about: `SESSION KEY AGE OPENED`, AGE being the milliseconds since C_SignInit and OPENED
 * how many sessions were opened so far. Eighteen keys. An operation that was begun stays begun until it has given a signature or its session is
 * closed, and refuses another one. READY_SESSIONS sessions at once, by default 100. The data `fail` is refused, and leaves the operation as it
 * is; `slow` takes a second.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "module.h"

enum { MAX_SESSIONS = 128, KEYS = 18 };
#define CKR_OPERATION_ACTIVE 0x90UL
#define CKR_OPERATION_NOT_INITIALIZED 0x91UL
#define CKR_SESSION_COUNT 0xB1UL

static struct session { bool open; CK_ULONG key; struct timespec since; } sessions[MAX_SESSIONS]; /* by handle - 1 */
static CK_ULONG found, opened;

static CK_RV initialize(struct ck_initialize_args *args) { return args == NULL ? CKR_ARGUMENTS_BAD : CKR_OK; }

static struct session *session_of(CK_ULONG handle) {
  return handle >= 1 && handle <= MAX_SESSIONS && sessions[handle - 1].open ? &sessions[handle - 1] : NULL;
}

static CK_RV open_session(CK_ULONG slot, CK_ULONG flags, void *application, void *notify, CK_ULONG *session) {
  const char *text = getenv("READY_SESSIONS");
  CK_ULONG most = text == NULL ? 100 : strtoul(text, NULL, 10);
  (void)slot, (void)flags, (void)application, (void)notify;
  for (CK_ULONG i = 0; i < most && i < MAX_SESSIONS; i++) {
    if (sessions[i].open) continue;
    sessions[i] = (struct session){.open = true};
    *session = i + 1;
    opened++;
    return CKR_OK;
  }
  return CKR_SESSION_COUNT;
}

static CK_RV close_session(CK_ULONG handle) {
  struct session *session = session_of(handle);
  if (session == NULL) return CKR_SESSION_HANDLE_INVALID;
  session->open = false;
  return CKR_OK;
}

static CK_RV get_attribute_value(CK_ULONG session, CK_ULONG object, struct ck_attribute *wanted, CK_ULONG count) {
  CK_ULONG value = wanted->type == CKA_CLASS ? CKO_PRIVATE_KEY : wanted->type == CKA_KEY_TYPE ? CKK_EC : object;
  (void)session;
  if (object < 1 || object > KEYS || count != 1) return CKR_ARGUMENTS_BAD;
  if (wanted->length == 1) value = wanted->type == CKA_ID ? object : 1;
  if (wanted->length > sizeof value) {
    wanted->length = (CK_ULONG)-1; /* as for an attribute that the object does not have */
    return 0x12;
  }
  memcpy(wanted->value, &value, wanted->length);
  return CKR_OK;
}

static CK_RV find_objects_init(CK_ULONG session, struct ck_attribute *wanted, CK_ULONG count) {
  CK_ULONG class = 0;
  (void)session;
  if (count > 0 && wanted->type == CKA_CLASS) memcpy(&class, wanted->value, sizeof class);
  found = class == CKO_PRIVATE_KEY ? 0 : KEYS;
  return CKR_OK;
}

static CK_RV find_objects(CK_ULONG session, CK_ULONG *objects, CK_ULONG max, CK_ULONG *count) {
  (void)session;
  for (*count = 0; *count < max && found < KEYS; (*count)++) objects[*count] = ++found;
  return CKR_OK;
}

static CK_RV find_objects_final(CK_ULONG session) {
  (void)session;
  return CKR_OK;
}

static CK_RV sign_init(CK_ULONG handle, struct ck_mechanism *mechanism, CK_ULONG key) {
  struct session *session = session_of(handle);
  if (session == NULL) return CKR_SESSION_HANDLE_INVALID;
  if (session->key != 0) return CKR_OPERATION_ACTIVE;
  if (mechanism == NULL || key < 1 || key > KEYS) return CKR_ARGUMENTS_BAD;
  session->key = key;
  return clock_gettime(CLOCK_MONOTONIC, &session->since) == 0 ? CKR_OK : CKR_GENERAL_ERROR;
}

static CK_RV sign(CK_ULONG handle, const CK_BYTE *data, CK_ULONG length, CK_BYTE *signature, CK_ULONG *signature_length) {
  struct session *session = session_of(handle);
  struct timespec now;
  if (session == NULL) return CKR_SESSION_HANDLE_INVALID;
  if (session->key == 0) return CKR_OPERATION_NOT_INITIALIZED;
  if (length == 4 && memcmp(data, "fail", 4) == 0) return CKR_DATA_LEN_RANGE;
  if (length == 4 && memcmp(data, "slow", 4) == 0) (void)nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  long age = (now.tv_sec - session->since.tv_sec) * 1000 + (now.tv_nsec - session->since.tv_nsec) / 1000000;
  int written = snprintf((char *)signature, *signature_length, "%lu %lu %ld %lu", handle, session->key, age, opened);
  *signature_length = (CK_ULONG)written;
  session->key = 0;
  return CKR_OK;
}

__attribute__((visibility("default"))) CK_RV C_GetFunctionList(struct ck_function_list **list) {
  static struct ck_function_list functions = {
      .version = {2, 40},
      .initialize = initialize,
      .get_info = blank_info,
      .get_slot_list = one_slot,
      .get_token_info = blank_token,
      .open_session = open_session,
      .close_session = close_session,
      .login = any_pin,
      .get_attribute_value = get_attribute_value,
      .find_objects_init = find_objects_init,
      .find_objects = find_objects,
      .find_objects_final = find_objects_final,
      .sign_init = sign_init,
      .sign = sign,
  };
  *list = &functions;
  return CKR_OK;
}
