#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "addon.h"

/*
 * The supervisor of a shim's filter (seccomp_unotify(2)). A thread of its own answers every attempt with EPERM at once,
 * however busy JavaScript is; the first ones are recorded and handed over, all are counted. Never "continue": arguments in
 * memory could change after a look at them.
 */

enum { MAX_NR = 512, MAX_EVENTS = 64 };

struct event { int nr; uint32_t tid; uint64_t args[6]; unsigned long long count; };

struct watch {
  int listener;
  napi_threadsafe_function report;
  struct seccomp_notif_sizes sizes;
  atomic_uint holders; /* the thread and the JavaScript functions */
  atomic_ullong counts[MAX_NR + 1]; /* the last one for every higher number */
  atomic_ullong total;
  atomic_bool blind; /* nobody answers any more, and the last process under the filter may still live */
  pthread_mutex_t lock; /* of the two below */
  struct event events[MAX_EVENTS];
  uint32_t recorded;
  bool reporting;
};

static void release(struct watch *watch) {
  if (atomic_fetch_sub(&watch->holders, 1) != 1) return;
  (void)pthread_mutex_destroy(&watch->lock);
  free(watch);
}

static napi_value make_attempt(napi_env env, const struct event *event) {
  napi_value object, args;
  napi_create_object(env, &object);
  napi_create_array_with_length(env, 6, &args);
  for (uint32_t i = 0; i < 6; i++) {
    napi_value value;
    napi_create_bigint_uint64(env, event->args[i], &value);
    napi_set_element(env, args, i, value);
  }
  set_number(env, object, "nr", event->nr);
  set_number(env, object, "tid", event->tid);
  set_number(env, object, "count", (double)event->count);
  napi_set_named_property(env, object, "args", args);
  return object;
}

static void hand_over(napi_env env, napi_value callback, void *context, void *data) {
  struct event *event = data;
  (void)context;
  if (env != NULL) {
    napi_value attempt = make_attempt(env, event), undefined;
    napi_get_undefined(env, &undefined);
    napi_call_function(env, undefined, callback, 1, &attempt, NULL);
  }
  free(event);
}

/* False when there is no room for one more. */
static bool record(struct watch *watch, const struct event *event) {
  (void)pthread_mutex_lock(&watch->lock);
  bool room = watch->recorded < MAX_EVENTS;
  if (room) watch->events[watch->recorded++] = *event;
  (void)pthread_mutex_unlock(&watch->lock);
  return room;
}

static void report(struct watch *watch, const struct seccomp_notif *attempt) {
  int slot = attempt->data.nr < 0 || attempt->data.nr >= MAX_NR ? MAX_NR : attempt->data.nr;
  struct event found = {.nr = attempt->data.nr, .tid = attempt->pid};
  memcpy(found.args, attempt->data.args, sizeof found.args);
  found.count = atomic_fetch_add(&watch->counts[slot], 1) + 1;
  bool recorded = record(watch, &found);
  /* Last: whoever sees the new total finds count and record. */
  (void)atomic_fetch_add(&watch->total, 1);
  struct event *event = recorded && watch->reporting ? malloc(sizeof *event) : NULL;
  if (event == NULL) return;
  *event = found;
  if (napi_call_threadsafe_function(watch->report, event, napi_tsfn_nonblocking) != napi_ok) {
    free(event);
    watch->reporting = false; /* the environment is closing: the function may not be used again */
  }
}

/* The kernel takes the listener's lock interruptibly: a thread that is stopped and goes on has to ask again. */
static bool send_answer(const struct watch *watch, struct seccomp_notif_resp *answer) {
  int result;
  do result = ioctl(watch->listener, SECCOMP_IOCTL_NOTIF_SEND, answer);
  while (result != 0 && errno == EINTR);
  return result == 0 || errno == ENOENT;
}

/*
 * False when the listener is of no more use. ENOENT: the caller died, or took a signal, between the attempt and the answer. A signal that
 * comes before the attempt is received takes it out of the kernel's list: it is denied, and nobody hears of it.
 */
static bool answer_one(struct watch *watch, struct seccomp_notif *attempt, struct seccomp_notif_resp *answer) {
  memset(attempt, 0, watch->sizes.seccomp_notif);
  if (ioctl(watch->listener, SECCOMP_IOCTL_NOTIF_RECV, attempt) != 0) return errno == EINTR || errno == ENOENT;
  memset(answer, 0, watch->sizes.seccomp_notif_resp);
  answer->id = attempt->id;
  answer->error = -EPERM;
  /* Before the answer: whoever hears of what the caller did next finds this attempt counted. */
  report(watch, attempt);
  return send_answer(watch, answer);
}

/* False with `over` when nobody is left under the filter; false without it when that cannot be known. */
static bool wait_for_one(const struct watch *watch, bool *over) {
  for (;;) {
    struct pollfd entry = {.fd = watch->listener, .events = POLLIN};
    int ready = poll(&entry, 1, -1);
    if (ready < 0 && errno != EINTR) return false;
    if (ready <= 0) continue;
    if ((entry.revents & POLLIN) != 0) return true;
    *over = (entry.revents & POLLHUP) != 0;
    if (*over || (entry.revents & POLLNVAL) != 0) return false;
    /* POLLERR alone: the kernel was interrupted while it waited for the listener's lock */
  }
}

static void *answer_all(void *data) {
  struct watch *watch = data;
  struct seccomp_notif *attempt = malloc(watch->sizes.seccomp_notif);
  struct seccomp_notif_resp *answer = malloc(watch->sizes.seccomp_notif_resp);
  bool over = false;
  if (attempt != NULL && answer != NULL) {
    while (wait_for_one(watch, &over) && answer_one(watch, attempt, answer)) continue;
  }
  free(attempt);
  free(answer);
  /* Without a listener the kernel denies with ENOSYS. Before that: whoever hears of such an answer finds the watch blind. */
  atomic_store(&watch->blind, !over);
  (void)close(watch->listener);
  if (watch->reporting) napi_release_threadsafe_function(watch->report, napi_tsfn_release);
  release(watch);
  return NULL;
}

static napi_value read_counts(napi_env env, napi_callback_info info) {
  napi_value result;
  void *data;
  napi_get_cb_info(env, info, NULL, NULL, NULL, &data);
  struct watch *watch = data;
  napi_create_object(env, &result);
  for (uint32_t nr = 0; nr <= MAX_NR; nr++) {
    unsigned long long count = atomic_load(&watch->counts[nr]);
    napi_value value;
    if (count == 0) continue;
    napi_create_double(env, (double)count, &value);
    napi_set_element(env, result, nr, value);
  }
  return result;
}

static napi_value read_total(napi_env env, napi_callback_info info) {
  napi_value result;
  void *data;
  napi_get_cb_info(env, info, NULL, NULL, NULL, &data);
  struct watch *watch = data;
  napi_create_double(env, (double)atomic_load(&watch->total), &result);
  return result;
}

static napi_value read_blind(napi_env env, napi_callback_info info) {
  napi_value result;
  void *data;
  napi_get_cb_info(env, info, NULL, NULL, NULL, &data);
  struct watch *watch = data;
  napi_get_boolean(env, atomic_load(&watch->blind), &result);
  return result;
}

static napi_value read_recorded(napi_env env, napi_callback_info info) {
  struct event copy[MAX_EVENTS];
  napi_value result;
  void *data;
  napi_get_cb_info(env, info, NULL, NULL, NULL, &data);
  struct watch *watch = data;
  (void)pthread_mutex_lock(&watch->lock);
  uint32_t recorded = watch->recorded;
  memcpy(copy, watch->events, sizeof copy);
  (void)pthread_mutex_unlock(&watch->lock);
  napi_create_array_with_length(env, recorded, &result);
  for (uint32_t i = 0; i < recorded; i++) napi_set_element(env, result, i, make_attempt(env, &copy[i]));
  return result;
}

static napi_value renew(napi_env env, napi_callback_info info) {
  napi_value result;
  void *data;
  napi_get_cb_info(env, info, NULL, NULL, NULL, &data);
  struct watch *watch = data;
  (void)pthread_mutex_lock(&watch->lock);
  watch->recorded = 0;
  (void)pthread_mutex_unlock(&watch->lock);
  napi_get_undefined(env, &result);
  return result;
}

static void forget(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  release(data);
}

static int start_thread(struct watch *watch) {
  pthread_t thread;
  sigset_t all, before;
  (void)sigfillset(&all);
  (void)pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(&thread, NULL, answer_all, watch);
  (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
  return error != 0 ? error : pthread_detach(thread);
}

/* Each function keeps the watch, so that any of them may outlive the others. */
static napi_value make_handle(napi_env env, struct watch *watch) {
  static const struct { const char *name; napi_callback function; } functions[] = {
      {"counts", read_counts}, {"total", read_total}, {"blind", read_blind}, {"recorded", read_recorded}, {"renew", renew}};
  napi_value result;
  napi_create_object(env, &result);
  for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
    napi_value function;
    napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].function, watch, &function);
    atomic_fetch_add(&watch->holders, 1);
    napi_add_finalizer(env, function, watch, forget, NULL, NULL);
    napi_set_named_property(env, result, functions[i].name, function);
  }
  return result;
}

/* watchNotifications(listenerFd, onEvent): takes the descriptor over */
napi_value native_watch_notifications(napi_env env, napi_callback_info info) {
  napi_value argv[2], name;
  size_t argc = 2;
  int fd;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (argc != 2 || !get_fd(env, argv[0], &fd)) return NULL;
  struct watch *watch = calloc(1, sizeof *watch);
  if (watch == NULL) return throw_errno(env, ENOMEM, "watch");
  watch->listener = fd;
  watch->reporting = true;
  atomic_store(&watch->holders, 2); /* the thread, and this function */
  (void)pthread_mutex_init(&watch->lock, NULL);
  napi_create_string_utf8(env, "ironclaw notifications", NAPI_AUTO_LENGTH, &name);
  if (syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &watch->sizes) != 0 ||
      watch->sizes.seccomp_notif < sizeof(struct seccomp_notif) ||
      watch->sizes.seccomp_notif_resp < sizeof(struct seccomp_notif_resp)) {
    free(watch);
    return throw_errno(env, ENOSYS, "SECCOMP_GET_NOTIF_SIZES");
  }
  if (napi_create_threadsafe_function(env, argv[1], NULL, name, 0, 1, NULL, NULL, NULL, hand_over, &watch->report) != napi_ok ||
      napi_unref_threadsafe_function(env, watch->report) != napi_ok) {
    free(watch);
    return throw_errno(env, ENOMEM, "threadsafe function");
  }
  int error = start_thread(watch);
  if (error != 0) {
    napi_release_threadsafe_function(watch->report, napi_tsfn_abort);
    free(watch);
    return throw_errno(env, error, "thread");
  }
  napi_value handle = make_handle(env, watch);
  release(watch);
  return handle;
}
