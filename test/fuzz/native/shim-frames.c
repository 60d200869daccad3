// sources: agent/shim/wire.c agent/shim/serve.c agent/shim/sign.c agent/shim/keys.c agent/shim/objects.c agent/shim/uses.c agent/shim/decrypt.c agent/shim/template.c agent/shim/unwrap.c
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

CK_RV library_rv(CK_RV rv) {
    return rv;
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

enum { FIRST_KEY = 17, SECRET_KEY = 19, FIRST_MADE = 100, SLOT = 3, SESSION = 1, WRITE_SESSION = 2, SIGN_SESSION = 3 };

static struct shim shim;
static CK_ULONG next_object, last_object, made;
static struct template template;
static bool lies;

static CK_RV open_session(CK_ULONG slot, CK_ULONG flags, void *application, void *notify, CK_ULONG *session) {
    if (slot != SLOT || (flags & ~CKF_RW_SESSION) != CKF_SERIAL_SESSION || application != NULL || notify != NULL) abort();
    *session = (flags & CKF_RW_SESSION) != 0 ? WRITE_SESSION : SIGN_SESSION;
    return CKR_OK;
}

static CK_RV close_session(CK_ULONG session) {
    if (session != WRITE_SESSION && session != SIGN_SESSION) abort();
    return CKR_OK;
}

// Two private keys, one secret key; nothing has a name but what was unwrapped last.
static CK_RV find_objects_init(CK_ULONG session, struct ck_attribute *wanted, CK_ULONG terms) {
    if (session != SESSION) abort();
    next_object = last_object = 0;
    if (terms == 1 && wanted->type == CKA_CLASS) {
        bool secret = *(CK_ULONG *)wanted->value == CKO_SECRET_KEY;
        next_object = secret ? SECRET_KEY : FIRST_KEY;
        last_object = secret ? SECRET_KEY : SECRET_KEY - 1;
    }
    return CKR_OK;
}

static CK_RV list_objects(CK_ULONG session, CK_ULONG *objects, CK_ULONG max, CK_ULONG *count) {
    (void)session;
    *count = max > 0 && next_object > 0 && next_object <= last_object ? 1 : 0;
    if (*count == 1) objects[0] = next_object++;
    return CKR_OK;
}

static CK_RV find_objects_final(CK_ULONG session) {
    (void)session;
    return CKR_OK;
}

// Of a key that was made: what its template said, or a lie about one bit of it.
static CK_RV get_made(struct ck_attribute *wanted) {
    for (CK_ULONG i = 0; i < template.count; i++) {
        const struct ck_attribute *own = &template.attributes[i];
        if (own->type != wanted->type) continue;
        if (own->length > wanted->length) return CKR_BUFFER_TOO_SMALL;
        memcpy(wanted->value, own->value, own->length);
        wanted->length = own->length;
        if (lies && wanted->type == CKA_EXTRACTABLE) *(CK_BYTE *)wanted->value ^= 1;
        return CKR_OK;
    }
    return CKR_GENERAL_ERROR;
}

static CK_RV get_attribute_value(CK_ULONG session, CK_ULONG object, struct ck_attribute *wanted, CK_ULONG count) {
    if (session != SESSION || count != 1) abort();
    if (object > FIRST_MADE) return get_made(wanted);
    CK_ULONG class = object == SECRET_KEY ? CKO_SECRET_KEY : CKO_PRIVATE_KEY;
    if (wanted->type == CKA_CLASS) memcpy(wanted->value, &class, sizeof class);
    else memset(wanted->value, (int)object, wanted->length);
    return CKR_OK;
}

// What each key may be used for, told again from the shim's tables: a use that is not fixed is free only before USES and ARM.
static void expect_use(CK_ULONG session, CK_ULONG key, uint8_t use) {
    CK_ULONG own = use == USE_UNWRAP ? WRITE_SESSION : SIGN_SESSION;
    if (session != SESSION && (use == USE_DECRYPT || session != own)) abort();
    for (size_t i = 0; i < shim.use_count; i++) {
        if (shim.uses[i].key != key) continue;
        if ((shim.uses[i].use & USE_MASK) != use) abort();
        return;
    }
    if (shim.uses_fixed || shim.armed || key < FIRST_KEY || key > SECRET_KEY) abort();
}

static CK_RV sign_init(CK_ULONG session, struct ck_mechanism *mechanism, CK_ULONG key) {
    if (mechanism->length > 0 && mechanism->parameter == NULL) abort();
    expect_use(session, key, USE_SIGN);
    return CKR_OK;
}

static CK_RV decrypt_init(CK_ULONG session, struct ck_mechanism *mechanism, CK_ULONG key) {
    if ((mechanism->type == CKM_RSA_PKCS_OAEP) != (mechanism->length == sizeof(struct ck_oaep_params))) abort();
    expect_use(session, key, USE_DECRYPT);
    return CKR_OK;
}

static uint8_t sum_of(const CK_BYTE *data, CK_ULONG length) {
    uint8_t sum = 0;
    for (CK_ULONG i = 0; i < length; i++) sum ^= data[i];
    return sum;
}

static CK_RV use(CK_ULONG session, const CK_BYTE *data, CK_ULONG length, CK_BYTE *result, CK_ULONG *result_length) {
    (void)session;
    memset(result, sum_of(data, length), *result_length);
    return CKR_OK;
}

static bool says(const struct ck_attribute *attributes, CK_ULONG count, CK_ULONG type, CK_BYTE value) {
    for (CK_ULONG i = 0; i < count; i++) {
        if (attributes[i].type == type) return attributes[i].length == 1 && *(const CK_BYTE *)attributes[i].value == value;
    }
    return false;
}

static CK_RV unwrap_key(CK_ULONG session, struct ck_mechanism *mechanism, CK_ULONG key, const CK_BYTE *wrapped, CK_ULONG length,
                        struct ck_attribute *attributes, CK_ULONG count, CK_ULONG *handle) {
    (void)mechanism;
    expect_use(session, key, USE_UNWRAP);
    if (!says(attributes, count, CKA_EXTRACTABLE, 0) || !says(attributes, count, CKA_SENSITIVE, 1)) abort();
    if (says(attributes, count, CKA_SIGN, 1) == says(attributes, count, CKA_DECRYPT, 1)) abort();
    if (!says(attributes, count, CKA_UNWRAP, 0) || count > MAX_ATTRIBUTES) abort();
    if (!says(attributes, count, CKA_TOKEN, session == WRITE_SESSION)) abort();
    template.count = count;
    memcpy(template.attributes, attributes, count * sizeof *attributes);
    lies = sum_of(wrapped, length) == 7;
    *handle = FIRST_MADE + ++made;
    return CKR_OK;
}

int fuzz_one(const uint8_t *bytes, size_t length) {
    shim = (struct shim){
        .phase = PHASE_LOGGED_IN,
        .slot = SLOT,
        .session = SESSION,
        .library = {.open_session = open_session,
                    .close_session = close_session,
                    .find_objects_init = find_objects_init,
                    .find_objects = list_objects,
                    .find_objects_final = find_objects_final,
                    .get_attribute_value = get_attribute_value,
                    .sign_init = sign_init,
                    .sign = use,
                    .decrypt_init = decrypt_init,
                    .decrypt = use,
                    .unwrap_key = unwrap_key},
    };
    made = 0;
    input = bytes;
    left = length;
    serve(&shim);
    return 0;
}
