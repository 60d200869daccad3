#ifndef IRONCLAW_SOCKETS_H
#define IRONCLAW_SOCKETS_H

#include <node_api.h>
#include <stdbool.h>
#include <sys/socket.h>

/* One descriptor of a connection. */
struct source { struct stream *stream; bool is_death; };

/*
 * One accepted connection of a Unix stream socket. SO_PASSCRED is on from before the first byte, so that the kernel says of each piece
 * who sent it, and never puts bytes of two senders into one recvmsg(2) (unix(7); unix_stream_read_generic in the kernel).
 */
struct stream {
  napi_env env;
  napi_ref on_event; /* holds the JavaScript side while the connection is open; NULL when it is not told of anything */
  struct source socket, death; /* of the process that connected */
  int fd, pidfd;               /* -1 when closed, or when there is none */
  struct ucred peer;           /* SO_PEERCRED */
  bool is_own;                 /* the agent itself made both ends: who sends is not looked at */
  bool ended;                  /* its end, or an error, has been told: what is received goes on to that */
  bool wants_writable;
  bool takes_late;             /* what is received stays in the socket for a while */
  unsigned pieces;             /* that were received and are still there */
  size_t kept;                 /* bytes of them */
  struct stream *next_keeper;
};

/* What onEvent is called with. */
enum { STREAM_READABLE = 1, STREAM_WRITABLE = 2, STREAM_DIED = 4 };
void stream_tell(struct stream *stream, int events);

/* hub.c: what is watched, for all connections of an event loop together. Each is told once of what came, readable from the start. */
/* Before a connection is accepted. */
bool hub_open(napi_env env);
bool hub_add(struct stream *stream);
bool hub_watch_writable(struct stream *stream, bool wanted);
/* It is not told of anything any more, not even of what has come already. */
void hub_remove(struct stream *stream);
/* It has begun to keep what it receives: stream_take_kept is called soon. */
void hub_keeps(struct stream *stream);

/* stream_io.c: takes what was kept out of the socket. */
void stream_take_kept(struct stream *stream);

/* The connector of `fd` in `peer`, and a pidfd of it or -1. `by_number`: of the number, by a kernel without SO_PEERPIDFD. */
int peer_of(int fd, struct ucred *peer, int *pidfd, bool *by_number);

/* {pid, uid, gid, byNumber} */
napi_value make_credentials(napi_env env, const struct ucred *peer, bool by_number);

/* Takes `fd` and `pidfd` over. NULL and a pending error when there is no memory: then they stay the caller's. */
napi_value make_stream(napi_env env, int fd, int pidfd, const struct ucred *peer);

/* An argument as an open stream; NULL and a pending error when it is none. */
struct stream *open_stream(napi_env env, napi_value value);

/* Calls `function` with `argv` from the event loop; what it throws is an uncaught exception. */
void call_back(napi_env env, napi_ref function, size_t argc, const napi_value *argv);

/* Whether `value` is an external of ours with this tag; then `data` is what it holds. */
bool has_tag(napi_env env, napi_value value, const napi_type_tag *tag, void **data);

#endif
