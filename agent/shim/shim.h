#ifndef IRONCLAW_SHIM_H
#define IRONCLAW_SHIM_H

#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pkcs11.h"

/* agent/SHIM.md describes the protocol, policy/runtime/README.md the compiled profile. */

enum { REQUEST_FD = 3, CREDENTIAL_FD = 4, FIRST_FREE_FD = 5 };
enum { EXIT_PROTOCOL = 3, EXIT_ENVIRONMENT = 4 };
enum { MAX_FRAME = 65536 + 64, MAX_LIMITS = 64, MAX_RULES = 64, MAX_PATH = 255, MAX_KEYS = 256 };
enum { MAX_PIN = 255, MAX_CREDENTIAL = 32766, MAX_TOKENS = 8 };

/* --- profile.c: the compiled profile, read before anything is confined --- */

struct limit { uint8_t resource; uint64_t value; };
enum { ACCESS_READ = 1, ACCESS_WRITE = 2, ACCESS_DEVICE = 3 };
struct path_rule { uint8_t access; char path[MAX_PATH + 1]; };
struct program { uint16_t length; struct sock_filter *code; };
enum filter { FILTER_LOAD, FILTER_LOCK, FILTER_SERVE, FILTERS };

/* What a profile opens: these are not tried by the probe. */
enum { OPENS_INET = 1, OPENS_UNIX = 2, OPENS_NETLINK = 4, OPENS_THREAD = 8, OPENS_DEVICE = 16, OPENS_ALL = 31 };

struct profile {
  uint8_t opens;
  uint32_t armed_high;
  size_t limit_count, rule_count;
  struct limit limits[MAX_LIMITS];
  struct path_rule rules[MAX_RULES];
  struct program programs[FILTERS];
};

/* Reads the file or ends the process with EXIT_ENVIRONMENT. */
void profile_open(const char *path, struct profile *profile);

/* --- confine.c: stage 1 and the filters armed for later --- */

struct confinement {
  int landlock_abi;
  uint8_t filters;
  uint8_t *armed; /* read-only pages with the lock and serve filters; the load filter keeps everybody out */
};

/* Applies stage 1 and returns the notifier's file descriptor, or ends the process. */
int confine(const struct profile *profile, struct confinement *confinement);
/* Installs an armed filter. Works once each. Returns 0 or an errno. */
int confine_more(struct confinement *confinement, enum filter filter);

/* --- wire.c: frames and bounds --- */

/* Bytes from outside. Reading past the end sets `bad` and gives zeros. */
struct reader { const uint8_t *at; size_t left; bool bad; };
uint8_t read_u8(struct reader *reader);
uint32_t read_u32(struct reader *reader);
uint64_t read_u64(struct reader *reader);
uint16_t read_u16(struct reader *reader);
const uint8_t *read_bytes(struct reader *reader, size_t length);
/* True when nothing is left and nothing was missing. */
bool read_end(const struct reader *reader);
/* A payload that is one sized16 path, and nothing else. True when it is absolute and fits `path`, MAX_PATH + 1 bytes. */
bool read_path(struct reader *reader, char *path);

/* A reply under construction. What does not fit sets `full`. */
struct writer { size_t length; bool full; uint8_t bytes[4 + MAX_FRAME]; };
void write_u8(struct writer *writer, uint8_t value);
void write_u16(struct writer *writer, uint16_t value);
void write_u32(struct writer *writer, uint32_t value);
void write_u64(struct writer *writer, uint64_t value);
void write_bytes(struct writer *writer, const void *bytes, size_t length);
void write_sized16(struct writer *writer, const void *bytes, size_t length);
/* Overwrites a count written earlier. */
void patch_u16(struct writer *writer, size_t offset, uint16_t value);

struct request { uint32_t id; uint8_t op; struct reader payload; };
/* Fills `buffer` with one frame: true, false at the end of the stream, ends the process on a malformed frame. */
bool next_request(uint8_t *buffer, struct request *request);
void reply_begin(struct writer *writer, uint32_t id, uint8_t op);
void reply_end(struct writer *writer, CK_RV rv);
/* READY, with the notifier as SCM_RIGHTS. Ends the process when the message cannot be sent. */
void send_ready(const struct confinement *confinement, int notifier);
/* Reads exactly `length` bytes. */
bool read_exactly(int fd, void *bytes, size_t length);

/* --- credential.c: what the unsealer sends --- */

/* In locked pages that no dump holds. */
struct credential { size_t length; CK_BYTE bytes[MAX_CREDENTIAL]; };
/* Waits for one frame: 1 to `max` bytes, else CKR_DATA_LEN_RANGE. The caller drops it. */
CK_RV take_credential(size_t max, struct credential **credential);
/* Wipes and frees it. */
void drop_credential(struct credential *credential);

/* --- the library --- */

enum phase { PHASE_FRESH, PHASE_LOADED, PHASE_LOGGED_IN, PHASE_FAILED };

/* Only these functions of the library can be reached: the list it returned is not kept. */
struct library {
  CK_RV (*open_session)(CK_ULONG, CK_ULONG, void *, void *, CK_ULONG *);
  CK_RV (*login)(CK_ULONG, CK_ULONG, CK_BYTE *, CK_ULONG);
  CK_RV (*get_attribute_value)(CK_ULONG, CK_ULONG, struct ck_attribute *, CK_ULONG);
  CK_RV (*find_objects_init)(CK_ULONG, struct ck_attribute *, CK_ULONG);
  CK_RV (*find_objects)(CK_ULONG, CK_ULONG *, CK_ULONG, CK_ULONG *);
  CK_RV (*find_objects_final)(CK_ULONG);
  CK_RV (*sign_init)(CK_ULONG, struct ck_mechanism *, CK_ULONG);
  CK_RV (*sign)(CK_ULONG, const CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *);
};

/* A token that took its PIN. */
struct token {
  CK_ULONG slot, session;
  size_t key_count;
  CK_ULONG keys[MAX_KEYS]; /* handles of the last KEYS: SIGN takes no other */
};

struct shim {
  enum phase phase;
  bool armed, channel_closed;
  struct confinement confinement;
  struct library library;
  uint64_t operations;
  size_t token_count;
  struct token tokens[MAX_TOKENS];
};

/* The token in this slot; NULL when none was logged in to. */
struct token *find_token(struct shim *shim, CK_ULONG slot);
/* Nothing more is read from the credential channel, whatever is left in it. True when it is closed, also when it was before. */
bool close_channel(struct shim *shim);

/* One function per op: reads its payload to the end, acts, writes the reply's payload. */
CK_RV op_probe(struct shim *shim, struct reader *in, struct writer *out);
CK_RV op_load(struct shim *shim, struct reader *in, struct writer *out);
CK_RV op_login(struct shim *shim, struct reader *in, struct writer *out);
CK_RV op_keys(struct shim *shim, struct reader *in, struct writer *out);
CK_RV op_sign(struct shim *shim, struct reader *in, struct writer *out);
CK_RV op_arm(struct shim *shim, struct reader *in, struct writer *out);
CK_RV op_status(struct shim *shim, struct reader *in, struct writer *out);
CK_RV op_credential(struct shim *shim, struct reader *in, struct writer *out);
void serve(struct shim *shim);

/* Ends the process; `what` is a fixed text without any input. */
_Noreturn void fail(int status, const char *what);
/* Ends the process with EXIT_PROTOCOL unless the payload was complete and used up. */
void expect_end(const struct reader *reader);

#endif
