// sources: agent/shim/wire.c agent/shim/serve.c agent/shim/sign.c agent/shim/keys.c
// flags: -Wl,--wrap=read -Wl,--wrap=write
// The shim's loop over frames with a library that answers everything, and without what would act on this machine.
#include "driver.h"

#include "../../../agent/shim/shim.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const uint8_t *input;
static size_t left;

ssize_t __real_read(int fd, void *bytes, size_t length);
ssize_t __real_write(int fd, const void *bytes, size_t length);
ssize_t __wrap_read(int fd, void *bytes, size_t length);
ssize_t __wrap_write(int fd, const void *bytes, size_t length);

// Short reads are allowed on a socket: never more than 7 bytes at a time.
ssize_t __wrap_read(int fd, void *bytes, size_t length) {
    if (fd != REQUEST_FD) return __real_read(fd, bytes, length);
    size_t n = length < left ? length : left;
    if (n > 7) n = 7;
    memcpy(bytes, input, n);
    input += n;
    left -= n;
    return (ssize_t)n;
}

ssize_t __wrap_write(int fd, const void *bytes, size_t length) {
    return fd == REQUEST_FD ? (ssize_t)length : __real_write(fd, bytes, length);
}

_Noreturn void fail(int status, const char *what) {
    (void)status;
    (void)what;
    fuzz_refuse();
}

void expect_end(const struct reader *reader) {
    if (!read_end(reader)) fail(EXIT_PROTOCOL, "payload");
}

int confine_more(struct confinement *confinement, enum filter filter) {
    (void)filter;
    confinement->filters++;
    return 0;
}

bool close_channel(struct shim *shim) {
    shim->channel_closed = true;
    return true;
}

CK_RV op_probe(struct shim *shim, struct reader *in, struct writer *out) {
    (void)shim;
    expect_end(in);
    write_u16(out, 0);
    return CKR_OK;
}

CK_RV op_load(struct shim *shim, struct reader *in, struct writer *out) {
    (void)shim;
    char path[MAX_PATH + 1];
    write_sized16(out, "", 0);
    (void)read_path(in, path);
    return CKR_GENERAL_ERROR;
}

CK_RV op_login(struct shim *shim, struct reader *in, struct writer *out) {
    (void)shim;
    (void)out;
    (void)read_u64(in);
    expect_end(in);
    return CKR_OK;
}

CK_RV op_credential(struct shim *shim, struct reader *in, struct writer *out) {
    char path[MAX_PATH + 1];
    (void)out;
    if (read_path(in, path) && (path[0] != '/' || strlen(path) > MAX_PATH)) abort();
    shim->phase = PHASE_FAILED;
    return CKR_GENERAL_ERROR;
}

static CK_ULONG next_object;

static CK_RV find_objects_init(CK_ULONG session, struct ck_attribute *wanted, CK_ULONG terms) {
    (void)wanted;
    (void)terms;
    next_object = 10 * session + 7;
    return CKR_OK;
}

static CK_RV find_objects(CK_ULONG session, CK_ULONG *objects, CK_ULONG max, CK_ULONG *count) {
    *count = max > 0 && next_object < 10 * session + 9 ? 1 : 0;
    if (*count == 1) objects[0] = next_object++;
    return CKR_OK;
}

static CK_RV find_objects_final(CK_ULONG session) {
    (void)session;
    return CKR_OK;
}

static CK_RV get_attribute_value(CK_ULONG session, CK_ULONG object, struct ck_attribute *wanted, CK_ULONG count) {
    (void)session;
    for (CK_ULONG i = 0; i < count; i++) {
        if (wanted[i].type == CKA_CLASS) memcpy(wanted[i].value, &(CK_ULONG){CKO_PRIVATE_KEY}, sizeof(CK_ULONG));
        else memset(wanted[i].value, (int)object, wanted[i].length);
    }
    return CKR_OK;
}

static CK_RV sign_init(CK_ULONG session, struct ck_mechanism *mechanism, CK_ULONG key) {
    if (mechanism->length > 0 && mechanism->parameter == NULL) abort();
    if (key != 10 * session + 7 && key != 10 * session + 8) abort(); // only what KEYS listed for this token
    return CKR_OK;
}

static CK_RV sign(CK_ULONG session, const CK_BYTE *data, CK_ULONG length, CK_BYTE *signature, CK_ULONG *signature_length) {
    (void)session;
    uint8_t sum = 0;
    for (CK_ULONG i = 0; i < length; i++) sum ^= data[i];
    memset(signature, sum, *signature_length);
    return CKR_OK;
}

int fuzz_one(const uint8_t *bytes, size_t length) {
    static struct shim shim;
    shim = (struct shim){
        .phase = PHASE_LOGGED_IN,
        .token_count = 2,
        .tokens = {{.slot = 3, .session = 1}, {.slot = 4, .session = 2}},
        .library = {.find_objects_init = find_objects_init,
                    .find_objects = find_objects,
                    .find_objects_final = find_objects_final,
                    .get_attribute_value = get_attribute_value,
                    .sign_init = sign_init,
                    .sign = sign},
    };
    input = bytes;
    left = length;
    serve(&shim);
    return 0;
}
