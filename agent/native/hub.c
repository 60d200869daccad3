#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include <uv.h>

#include "addon.h"
#include "sockets.h"

enum { BATCH = 64 };
/*
 * Waking a sleeping processor costs more than a decision does. While one connection alone is busy, the event loop looks for its next event
 * for a moment before it sleeps; with several there is always something to do, and the other processors are theirs. Nanoseconds.
 */
enum { SPIN = 100000, ALONE = 5000000 };
enum { KEEP = 5 }; /* milliseconds */

/*
 * All connections of one event loop. Each is told once of what comes (EPOLLET), so nothing has to be watched or not watched while a
 * request is in work.
 */
static _Thread_local struct {
  int epoll; /* -1: not open */
  unsigned open;
  napi_async_cleanup_hook_handle cleanup;
  uv_poll_t poll;
  uv_prepare_t prepare;
  uv_timer_t timer;
  struct stream *keepers;
  struct epoll_event batch[BATCH]; /* being told */
  int told, count;
  const struct stream *last;
  uint64_t other; /* when another connection than the last one was busy */
  bool awake;     /* something has happened since the last sleep */
} hub = {.epoll = -1};

static void note(const struct stream *stream) {
  hub.awake = true;
  if (stream->is_own || stream == hub.last) return;
  hub.other = uv_hrtime();
  hub.last = stream;
}

static int events_of(uint32_t ready) {
  /* An error of the socket itself is found by the next receive or send. */
  int events = (ready & (EPOLLIN | EPOLLHUP | EPOLLRDHUP | EPOLLERR)) != 0 ? STREAM_READABLE : 0;
  return events | ((ready & (EPOLLOUT | EPOLLERR)) != 0 ? STREAM_WRITABLE : 0);
}

static void tell_all(uv_poll_t *handle, int status, int events) {
  (void)handle;
  (void)status;
  (void)events;
  hub.count = epoll_wait(hub.epoll, hub.batch, BATCH, 0);
  for (hub.told = 0; hub.told < hub.count; hub.told++) {
    const struct epoll_event *event = &hub.batch[hub.told];
    struct source *source = event->data.ptr;
    if (source == NULL) continue;
    note(source->stream);
    if ((event->events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)) != 0) source->stream->ended = true;
    stream_tell(source->stream, source->is_death ? STREAM_DIED : events_of(event->events));
  }
  hub.count = 0;
}

static int control(int operation, int fd, struct source *source, uint32_t events) {
  struct epoll_event event = {.events = events | EPOLLET, .data.ptr = source};
  return epoll_ctl(hub.epoll, operation, fd, &event);
}

/* Tells also of what is there already. */
static int watch(struct stream *stream, int operation) {
  return control(operation, stream->fd, &stream->socket, EPOLLIN | EPOLLRDHUP | (stream->wants_writable ? EPOLLOUT : 0));
}

static void take_kept(uv_timer_t *timer) {
  (void)timer;
  while (hub.keepers != NULL) {
    struct stream *stream = hub.keepers;
    hub.keepers = stream->next_keeper;
    stream_take_kept(stream);
    (void)watch(stream, EPOLL_CTL_MOD); /* what another sender's is begins a piece of its own, which was not read yet */
  }
}

void hub_keeps(struct stream *stream) {
  for (const struct stream *other = hub.keepers; other != NULL; other = other->next_keeper) {
    if (other == stream) return;
  }
  stream->next_keeper = hub.keepers;
  hub.keepers = stream;
  if (!uv_is_active((uv_handle_t *)&hub.timer)) (void)uv_timer_start(&hub.timer, take_kept, KEEP, 0);
}

static void forget_keeper(struct stream *stream) {
  struct stream **at = &hub.keepers;
  while (*at != NULL && *at != stream) at = &(*at)->next_keeper;
  if (*at != NULL) *at = stream->next_keeper;
}

static void before_sleep(uv_prepare_t *handle) {
  struct pollfd events = {.fd = uv_backend_fd(handle->loop), .events = POLLIN};
  uint64_t begun = uv_hrtime();
  if (!hub.awake || uv_backend_timeout(handle->loop) == 0 || begun - hub.other < ALONE) return;
  do {
    if (poll(&events, 1, 0) != 0) return;
  } while (uv_hrtime() - begun < SPIN);
  hub.awake = false;
}

static void handle_closed(uv_handle_t *handle) {
  if (handle == (uv_handle_t *)&hub.poll) (void)napi_remove_async_cleanup_hook(hub.cleanup);
}

/* The one that was closed first is told of last. */
static void environment_ends(napi_async_cleanup_hook_handle cleanup, void *data) {
  (void)cleanup;
  (void)data;
  uv_close((uv_handle_t *)&hub.poll, handle_closed);
  uv_close((uv_handle_t *)&hub.timer, handle_closed);
  uv_close((uv_handle_t *)&hub.prepare, handle_closed);
  (void)close(hub.epoll);
  hub.epoll = -1;
}

bool hub_open(napi_env env) {
  uv_loop_t *loop;
  if (hub.epoll >= 0) return true;
  if (napi_get_uv_event_loop(env, &loop) != napi_ok) return false;
  hub.epoll = epoll_create1(EPOLL_CLOEXEC);
  if (hub.epoll < 0) return false;
  (void)uv_poll_init(loop, &hub.poll, hub.epoll);
  (void)uv_poll_start(&hub.poll, UV_READABLE, tell_all);
  (void)uv_timer_init(loop, &hub.timer);
  (void)uv_prepare_init(loop, &hub.prepare);
  if (sysconf(_SC_NPROCESSORS_ONLN) > 1) (void)uv_prepare_start(&hub.prepare, before_sleep);
  uv_unref((uv_handle_t *)&hub.poll);
  uv_unref((uv_handle_t *)&hub.timer);
  uv_unref((uv_handle_t *)&hub.prepare);
  (void)napi_add_async_cleanup_hook(env, environment_ends, NULL, &hub.cleanup);
  return true;
}

bool hub_add(struct stream *stream) {
  stream->socket = (struct source){.stream = stream};
  stream->death = (struct source){.stream = stream, .is_death = true};
  if (watch(stream, EPOLL_CTL_ADD) != 0) return false;
  if (stream->pidfd >= 0 && control(EPOLL_CTL_ADD, stream->pidfd, &stream->death, EPOLLIN) != 0) {
    (void)close(stream->pidfd); /* nothing that it sends can be told to be its own: receive refuses it */
    stream->pidfd = -1;
  }
  if (hub.open++ == 0) uv_ref((uv_handle_t *)&hub.poll);
  return true;
}

bool hub_watch_writable(struct stream *stream, bool wanted) {
  stream->wants_writable = wanted;
  return watch(stream, EPOLL_CTL_MOD) == 0;
}

void hub_remove(struct stream *stream) {
  /* Explicitly: a copy of the pidfd may be open elsewhere, and an epoll set holds the file, not its number. */
  (void)epoll_ctl(hub.epoll, EPOLL_CTL_DEL, stream->fd, NULL);
  if (stream->pidfd >= 0) (void)epoll_ctl(hub.epoll, EPOLL_CTL_DEL, stream->pidfd, NULL);
  for (int i = hub.told + 1; i < hub.count; i++) {
    void *source = hub.batch[i].data.ptr;
    if (source == &stream->socket || source == &stream->death) hub.batch[i].data.ptr = NULL;
  }
  forget_keeper(stream);
  if (hub.last == stream) hub.last = NULL;
  if (--hub.open == 0) uv_unref((uv_handle_t *)&hub.poll);
}
