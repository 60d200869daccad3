/*
 * A PKCS#11 token with one key whose library attacks. The environment, which the policy gives, says from where and with what:
 *
 *   LAB_FROM=PLACE          all attempts, at this place
 *   LAB_ACT=PLACE/NAME      this act, at this place
 *   LAB_LIE=NAME            what it tells the shim that is not so
 *
 *   LAB_ALLOWED, LAB_OPENS, LAB_PORT: see lab-kernel.c, lab-calls.c, lab-endpoints.c
 *
 * PLACE is one of constructor, C_GetFunctionList, C_Initialize, C_Login, C_FindObjects, C_GetAttributeValue, C_Sign, TLS destructor, atexit,
 * destructor, pool thread. The last is a thread that the constructor starts, and that attacks when C_Sign is called. Results are lines in TOKENS/results: place, attempt, errno. C_Sign also takes orders in what is to be signed: `try N` makes the
 * signature the Nth attempt's name and errno, `act NAME` does that.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lab.h"

int scratch_fd = -1;
static int results_fd = -1;
static struct ck_function_list functions;

static void note(const char *place, const char *name, int error) {
  char line[256];
  int length = snprintf(line, sizeof line, "%s\t%s\t%d\n", place, name, error);
  if (write(results_fd, line, (size_t)length) != length) _exit(7);
}

static const struct attempt *nth(unsigned long number) {
  for (const struct attempt *const *list = attempt_lists; *list != NULL; list++) {
    for (const struct attempt *attempt = *list; attempt->name != NULL; attempt++) {
      if (number-- == 0) return attempt;
    }
  }
  return NULL;
}

static void attack_from(const char *place) {
  const char *from = getenv("LAB_FROM"), *act = getenv("LAB_ACT");
  size_t length = strlen(place);
  if (act != NULL && strncmp(act, place, length) == 0 && act[length] == '/' && !run_act(act + length + 1)) _exit(6);
  if (from == NULL || strcmp(from, place) != 0) return;
  for (unsigned long i = 0; nth(i) != NULL; i++) note(place, nth(i)->name, try_attempt(nth(i)));
  note(place, "end", 0);
}

static atomic_bool asked, attacked;

static void *pool(void *argument) {
  while (!atomic_load(&asked)) (void)sched_yield();
  attack_from("pool thread");
  atomic_store(&attacked, true);
  return argument;
}

static void start_pool(void) {
  pthread_t thread;
  const char *from = getenv("LAB_FROM");
  if (from == NULL || strcmp(from, "pool thread") != 0) return;
  if (pthread_create(&thread, NULL, pool, NULL) != 0) _exit(4);
}

static void use_pool(void) {
  const char *from = getenv("LAB_FROM");
  if (from == NULL || strcmp(from, "pool thread") != 0) return;
  atomic_store(&asked, true);
  while (!atomic_load(&attacked)) (void)sched_yield();
}

static bool lies(const char *name) {
  const char *lie = getenv("LAB_LIE");
  return lie != NULL && strcmp(lie, name) == 0;
}

static void at_exit(void) { attack_from("atexit"); }
static void at_thread_end(void *object) {
  (void)object;
  attack_from("TLS destructor");
}

extern int __cxa_thread_atexit_impl(void (*destructor)(void *), void *object, void *dso);
extern void *__dso_handle;

__attribute__((constructor)) static void at_load(void) {
  results_fd = open(TOKENS "/results", O_WRONLY | O_APPEND | O_CLOEXEC);
  scratch_fd = open(TOKENS "/scratch", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (results_fd < 0 || scratch_fd < 0 || atexit(at_exit) != 0) _exit(5);
  if (__cxa_thread_atexit_impl(at_thread_end, NULL, &__dso_handle) != 0) _exit(5);
  attack_from("constructor");
  start_pool();
}

__attribute__((destructor)) static void at_unload(void) { attack_from("destructor"); }

static CK_RV initialize(struct ck_initialize_args *args) {
  attack_from("C_Initialize");
  return args == NULL ? 7 : 0;
}

static CK_RV get_info(struct ck_info *info) {
  if (lies("texts that are no texts")) memset(info, 0xff, sizeof *info);
  return 0;
}

static CK_RV get_slot_list(CK_BYTE present, CK_ULONG *slots, CK_ULONG *count) {
  CK_ULONG max = *count;
  (void)present;
  *count = lies("16 slots, all the same") ? 16 : 1;
  for (CK_ULONG i = 0; i < *count && i < max; i++) slots[i] = 0;
  if (lies("2^40 slots")) *count = 1UL << 40;
  return 0;
}

static CK_RV get_token_info(CK_ULONG slot, struct ck_token_info *info) {
  memset(info, ' ', 96);
  if (lies("texts that are no texts")) memset(info, 0xfe, sizeof *info);
  else memcpy(info->label, "lab", 3);
  return slot;
}

static CK_RV open_session(CK_ULONG slot, CK_ULONG flags, void *application, void *notify, CK_ULONG *session) {
  (void)application;
  (void)notify;
  (void)flags;
  *session = 1;
  return slot;
}

static CK_RV login(CK_ULONG session, CK_ULONG user, CK_BYTE *pin, CK_ULONG length) {
  attack_from("C_Login");
  return session == 1 && user == CKU_USER && pin[0] != 0 && length > 0 ? 0 : 0xA0;
}

static int searched;

static CK_RV find_objects_init(CK_ULONG session, struct ck_attribute *wanted, CK_ULONG count) {
  (void)session;
  /* the first term is the class: a search for public or secret keys finds none */
  bool private = count >= 1 && wanted[0].type == CKA_CLASS && *(CK_ULONG *)wanted[0].value == CKO_PRIVATE_KEY;
  searched = private ? 0 : 1;
  return 0;
}

static CK_RV find_objects(CK_ULONG session, CK_ULONG *objects, CK_ULONG max, CK_ULONG *count) {
  (void)session;
  attack_from("C_FindObjects");
  bool endless = lies("objects without end");
  *count = max > 0 && (endless || searched++ == 0) ? 1 : 0;
  if (*count == 1) objects[0] = 7;
  if (lies("more objects than were asked for")) *count = 1UL << 40;
  return 0;
}

static CK_RV find_objects_final(CK_ULONG session) { return session == 1 ? 0 : 7; }

static CK_RV get_one(struct ck_attribute *wanted) {
  CK_ULONG value = wanted->type == CKA_CLASS ? CKO_PRIVATE_KEY : 3;
  if (lies("attributes of 2^63 bytes")) {
    wanted->length = 1UL << 63;
    return 0;
  }
  if (lies("attributes as long as they may be") && wanted->length > sizeof value) {
    memset(wanted->value, 0xff, wanted->length);
    return 0;
  }
  if (wanted->length == 1) value = wanted->type == CKA_EXTRACTABLE ? 0 : 1;
  if (wanted->length > sizeof value) {
    wanted->length = (CK_ULONG)-1; /* as for an attribute that the object does not have */
    return 0x12;
  }
  memcpy(wanted->value, &value, wanted->length);
  return 0;
}

static CK_RV get_attribute_value(CK_ULONG session, CK_ULONG object, struct ck_attribute *wanted, CK_ULONG count) {
  attack_from("C_GetAttributeValue");
  CK_RV rv = session == 1 && object == 7 ? 0 : 7;
  for (CK_ULONG i = 0; i < count && rv == 0; i++) rv = get_one(&wanted[i]);
  return rv;
}

static CK_RV sign_init(CK_ULONG session, struct ck_mechanism *mechanism, CK_ULONG key) {
  return session == 1 && mechanism != NULL && key == 7 ? 0 : 7;
}

static CK_ULONG obey(const char *order, char *answer, size_t size) {
  if (strncmp(order, "act ", 4) == 0) return run_act(order + 4) ? (CK_ULONG)snprintf(answer, size, "came back") : 0;
  if (strncmp(order, "try ", 4) != 0) return (CK_ULONG)snprintf(answer, size, "signed");
  const struct attempt *attempt = nth(strtoul(order + 4, NULL, 10));
  if (attempt == NULL) return (CK_ULONG)snprintf(answer, size, "end");
  int error = try_attempt(attempt);
  return (CK_ULONG)snprintf(answer, size, "%s\t%d", attempt->name, error);
}

static CK_RV sign(CK_ULONG session, const CK_BYTE *data, CK_ULONG length, CK_BYTE *signature, CK_ULONG *signature_length) {
  char order[256] = "";
  if (session != 1 || length >= sizeof order) return 7;
  attack_from("C_Sign");
  use_pool();
  memcpy(order, data, length);
  *signature_length = obey(order, (char *)signature, *signature_length);
  if (lies("a signature of 2^40 bytes")) *signature_length = 1UL << 40;
  if (lies("a signature of no bytes")) *signature_length = 0;
  return lies("a return value of 64 bits") ? ~0UL : 0;
}

__attribute__((visibility("default"))) CK_RV C_GetFunctionList(struct ck_function_list **list) {
  functions = (struct ck_function_list){
      .version = {2, 40},
      .initialize = initialize,
      .get_info = get_info,
      .get_slot_list = get_slot_list,
      .get_token_info = get_token_info,
      .open_session = open_session,
      .login = login,
      .get_attribute_value = get_attribute_value,
      .find_objects_init = find_objects_init,
      .find_objects = find_objects,
      .find_objects_final = find_objects_final,
      .sign_init = sign_init,
      .sign = sign,
  };
  attack_from("C_GetFunctionList");
  if (lies("a function list without functions")) memset(&functions, 0, sizeof functions);
  if (lies("functions at addresses of its choice")) memset(&functions, 0x41, sizeof functions);
  *list = lies("no function list") ? NULL : &functions;
  return 0;
}
