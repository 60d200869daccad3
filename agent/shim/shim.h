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
enum { MAX_FRAME = 65536 + 64, MAX_LIMITS = 64, MAX_RULES = 64, MAX_PATH = 255 };
enum { MAX_PIN = 255, MAX_CREDENTIAL = 32766, MAX_KEYS = 256, MAX_UNWRAPPED = 1024, MAX_RESULT = 8192, MAX_LABEL = 256 };

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
  uint8_t filters, opens;
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

/* Before the first request. */
void begin_stream(void);
struct request { uint32_t id; uint8_t op; struct reader payload; };
/* Waits for one frame: true, false at the end of the stream, ends the process on a malformed frame. Its payload is valid until the next one. */
bool next_request(struct request *request);
/* Whether so many are there without waiting. */
bool has_requests(size_t count);
void reply_begin(struct writer *writer, uint32_t id, uint8_t op);
/* Puts the reply behind those that wait to be sent. */
void reply_end(struct writer *writer, CK_RV rv);
bool holds_replies(void);
/* Sends those and wipes them: they may hold plaintexts. */
void flush_replies(void);
/* READY, with the notifier as SCM_RIGHTS. Ends the process when the message cannot be sent. */
void send_ready(const struct confinement *confinement, int notifier);
/* Reads exactly `length` bytes. */
bool read_exactly(int fd, void *bytes, size_t length);

/* --- credential.c: what the unsealer sends --- */

/* In locked pages that no dump holds. */
struct credential { size_t length; CK_BYTE bytes[MAX_CREDENTIAL]; };
/* Waits for one frame: 1 to `max` bytes, else CKR_DATA_LEN_RANGE or CKR_HOST_MEMORY. The caller drops it. */
CK_RV take_credential(size_t max, struct credential **credential);
/* Wipes and frees it. */
void drop_credential(struct credential *credential);

/* --- the library --- */

enum phase { PHASE_FRESH, PHASE_LOADED, PHASE_LOGGED_IN, PHASE_FAILED };

/* The shim's own answers to LOGIN and UNWRAP; a library that gives one is answered for with CKR_GENERAL_ERROR. */
#define RV_NOT_TRIED 0x80494301UL
#define RV_UNFIT 0x80494302UL
#define RV_UNFIT_ON_TOKEN 0x80494303UL
CK_RV library_rv(CK_RV rv);

/* Only these functions of the library can be reached: the list it returned is not kept. */
struct library {
  CK_RV (*open_session)(CK_ULONG, CK_ULONG, void *, void *, CK_ULONG *);
  CK_RV (*close_session)(CK_ULONG);
  CK_RV (*login)(CK_ULONG, CK_ULONG, CK_BYTE *, CK_ULONG);
  CK_RV (*get_attribute_value)(CK_ULONG, CK_ULONG, struct ck_attribute *, CK_ULONG);
  CK_RV (*find_objects_init)(CK_ULONG, struct ck_attribute *, CK_ULONG);
  CK_RV (*find_objects)(CK_ULONG, CK_ULONG *, CK_ULONG, CK_ULONG *);
  CK_RV (*find_objects_final)(CK_ULONG);
  CK_RV (*sign_init)(CK_ULONG, struct ck_mechanism *, CK_ULONG);
  CK_RV (*sign)(CK_ULONG, const CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *);
  CK_RV (*decrypt_init)(CK_ULONG, struct ck_mechanism *, CK_ULONG);
  CK_RV (*decrypt)(CK_ULONG, const CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *);
  CK_RV (*unwrap_key)(CK_ULONG, struct ck_mechanism *, CK_ULONG, const CK_BYTE *, CK_ULONG, struct ck_attribute *, CK_ULONG,
                      CK_ULONG *);
};

/* What a key is for, as on the wire; a barred key is for nothing. */
enum { USE_BARRED = 0, USE_SIGN = 1, USE_DECRYPT = 2, USE_UNWRAP = 3, USE_MASK = 0x3f };
/* What policy accepts of a key by name, as on the wire. */
enum { ACCEPTS_NONE = 0, ACCEPTS_PKCS1 = 0x40, ACCEPTS_RAW = 0x80 };

struct key_use { CK_ULONG key; uint8_t use; };
/* Bytes that were unwrapped, by a fingerprint, and what they became. */
struct unwrapped { uint64_t print; uint8_t class, use; CK_ULONG type; };

/* One key with one mechanism, and a session in which the library may be ready to sign with them. */
struct signer {
  CK_ULONG session, key, mechanism; /* session 0: none was opened */
  uint8_t has_pss;
  struct ck_pss_params pss;
  bool initialised;
  bool seldom;         /* the last two requests were further apart than what is made ready lasts */
  int64_t since;       /* nanoseconds, of being ready */
  int64_t used;        /* of the last request; 0: none yet */
  int64_t took;        /* C_Sign, the last time; 0: none yet */
};
enum { MAX_SIGNERS = 16 };

struct shim {
  enum phase phase;
  bool armed, uses_fixed;
  struct confinement confinement;
  struct library library;
  uint64_t operations;
  CK_ULONG slot, session; /* of the one token, once it took its PIN */
  size_t listed_count, use_count, unwrapped_count;
  CK_ULONG listed[MAX_KEYS]; /* handles of the last KEYS */
  struct key_use uses[MAX_KEYS + MAX_UNWRAPPED];
  struct unwrapped unwrapped[MAX_UNWRAPPED];
  size_t last_signer; /* of the last SIGN */
  struct signer signers[MAX_SIGNERS];
};

/* --- sign.c --- */

/* Lets the library get ready for another signature like the last one: called when nothing waits. */
void sign_ahead(struct shim *shim);
/* Whether this SIGN is for a signer that took no longer than `nanoseconds` the last time. */
bool signs_within(const struct shim *shim, struct reader payload, int64_t nanoseconds);
/* CLOCK_MONOTONIC in nanoseconds. */
int64_t monotonic(void);

/* --- objects.c: what the token holds, through its session --- */

/* Reads one attribute into `value`: its length, or -1 when the object has none of at most `size` bytes. */
long read_attribute(const struct shim *shim, CK_ULONG object, CK_ULONG type, void *value, size_t size);
/* At most `max` objects; more than that is CKR_BUFFER_TOO_SMALL, never a cut list. */
CK_RV find_objects(const struct shim *shim, struct ck_attribute *wanted, CK_ULONG terms, CK_ULONG *found, CK_ULONG max,
                   CK_ULONG *count);

/* --- uses.c: the second gate of "a key does one of sign, decrypt, unwrap" --- */

/* CKR_OK when the slot is the token's and the key may be used so; `accepts` is what policy must have accepted for it. */
CK_RV check_use(const struct shim *shim, CK_ULONG slot, CK_ULONG key, uint8_t use, uint8_t accepts);
/* Whether KEYS, USES or UNWRAP has named this handle. */
bool is_known(const struct shim *shim, CK_ULONG key);
/* There is room while fewer than MAX_UNWRAPPED keys were unwrapped. */
void fix_use(struct shim *shim, CK_ULONG key, uint8_t use);

/* --- decrypt.c --- */

/* A mechanism with its OAEP parameters, as DECRYPT and UNWRAP take it. */
struct cipher { CK_ULONG type; uint8_t has_oaep; struct ck_oaep_params oaep; };
void read_cipher(struct reader *reader, struct cipher *cipher);
/* CKR_OK when parameters are there exactly for the mechanism that takes them. */
CK_RV check_cipher(const struct cipher *cipher);
/* For the library. Points into `cipher`. */
struct ck_mechanism cipher_mechanism(struct cipher *cipher);

/* --- template.c: the only template a key can be unwrapped with --- */

enum { MAX_MECHANISMS = 8, MAX_ATTRIBUTES = 16 };

/* The key that UNWRAP is to make. */
struct new_key {
  uint8_t class, use, on_token, mechanism_count;
  CK_ULONG type, mechanisms[MAX_MECHANISMS];
  size_t label_length, id_length;
  const uint8_t *label, *id;
};
/* Points into `key` and into itself. */
struct template { CK_ULONG class; CK_BYTE on_token; CK_ULONG count; struct ck_attribute attributes[MAX_ATTRIBUTES]; };
void make_template(const struct new_key *key, struct template *template);
/* Reads every attribute back: true when each is what the template said. */
bool matches_template(const struct shim *shim, CK_ULONG object, const struct template *template);

/* One function per op: reads its payload to the end, acts, writes the reply's payload. */
CK_RV op_probe(struct shim *shim, struct reader *in, struct writer *out);
CK_RV op_load(struct shim *shim, struct reader *in, struct writer *out);
CK_RV op_login(struct shim *shim, struct reader *in, struct writer *out);
CK_RV op_keys(struct shim *shim, struct reader *in, struct writer *out);
CK_RV op_sign(struct shim *shim, struct reader *in, struct writer *out);
CK_RV op_arm(struct shim *shim, struct reader *in, struct writer *out);
CK_RV op_status(struct shim *shim, struct reader *in, struct writer *out);
CK_RV op_credential(struct shim *shim, struct reader *in, struct writer *out);
CK_RV op_decrypt(struct shim *shim, struct reader *in, struct writer *out);
CK_RV op_unwrap(struct shim *shim, struct reader *in, struct writer *out);
CK_RV op_uses(struct shim *shim, struct reader *in, struct writer *out);
void serve(struct shim *shim);

/* Ends the process; `what` is a fixed text without any input. */
_Noreturn void fail(int status, const char *what);
/* Ends the process with EXIT_PROTOCOL unless the payload was complete and used up. */
void expect_end(const struct reader *reader);

#endif
