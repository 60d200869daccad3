/*
 * The Node-API side: `connection()`, `run(connection, command, sessions, inputs)` and `decode(rc)`. Arguments were
 * validated in JavaScript; here they are only asserted, and a wrong one is a TypeError before anything is sent.
 */
#include <node_api.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "tpm2_tss.h"

static const napi_type_tag connection_tag = {0x4a8f2d10c6b34e71, 0x9d52f0a7138be6c4};

/* A job together with what Node-API needs to finish it. */
struct pending {
    struct job job;
    napi_async_work work;
    napi_deferred deferred;
    /* Keeps the connection from being collected while its command runs. */
    napi_ref connection;
};

#define CHECK(call) \
    do { \
        if ((call) != napi_ok) return false; \
    } while (0)

static void wipe_values(struct value *values, size_t count) {
    for (size_t index = 0; index < count; index++) {
        if (values[index].bytes == NULL) continue;
        explicit_bzero(values[index].bytes, values[index].size);
        free(values[index].bytes);
    }
}

static void free_pending(napi_env env, struct pending *pending) {
    wipe_values(pending->job.in, pending->job.in_count);
    wipe_values(pending->job.out, pending->job.out_count);
    if (pending->connection != NULL) (void)napi_delete_reference(env, pending->connection);
    if (pending->work != NULL) (void)napi_delete_async_work(env, pending->work);
    free(pending);
}

/* ---- inputs ---- */

static bool read_bytes(napi_env env, napi_value from, struct value *to) {
    bool is_typed_array = false;
    napi_typedarray_type type;
    size_t size = 0;
    void *data = NULL;
    CHECK(napi_is_typedarray(env, from, &is_typed_array));
    if (!is_typed_array) return false;
    CHECK(napi_get_typedarray_info(env, from, &type, &size, &data, NULL, NULL));
    if (type != napi_uint8_array || size > UINT16_MAX) return false;
    /* A copy: JavaScript may change or detach the buffer while the worker reads it. */
    *to = (struct value){.is_bytes = true, .size = size, .bytes = malloc(size > 0 ? size : 1)};
    if (to->bytes == NULL) return false;
    if (size > 0) memcpy(to->bytes, data, size);
    return true;
}

static bool read_inputs(napi_env env, napi_value array, struct job *job) {
    uint32_t length = 0;
    const char *kinds = job->command->inputs;
    CHECK(napi_get_array_length(env, array, &length));
    if (length != strlen(kinds) || length > MAX_INPUTS) return false;
    for (uint32_t index = 0; index < length; index++) {
        napi_value element;
        CHECK(napi_get_element(env, array, index, &element));
        if (kinds[index] == 'b') {
            if (!read_bytes(env, element, &job->in[index])) return false;
        } else {
            CHECK(napi_get_value_uint32(env, element, &job->in[index].number));
        }
        job->in_count = index + 1;
    }
    return true;
}

static bool read_sessions(napi_env env, napi_value array, struct job *job) {
    uint32_t length = 0;
    CHECK(napi_get_array_length(env, array, &length));
    if (length != SESSION_SLOTS) return false;
    for (uint32_t index = 0; index < length; index++) {
        napi_value element;
        CHECK(napi_get_element(env, array, index, &element));
        CHECK(napi_get_value_uint32(env, element, &job->sessions[index]));
    }
    return true;
}

static bool read_command(napi_env env, napi_value text, struct job *job) {
    char name[32];
    size_t length = 0;
    CHECK(napi_get_value_string_latin1(env, text, name, sizeof name, &length));
    job->command = find_command(name);
    return job->command != NULL;
}

static bool read_connection(napi_env env, napi_value object, struct job *job) {
    bool tagged = false;
    CHECK(napi_check_object_type_tag(env, object, &connection_tag, &tagged));
    if (!tagged) return false;
    CHECK(napi_unwrap(env, object, (void **)&job->tpm));
    return !job->tpm->busy;
}

/* ---- one command on a worker ---- */

static void execute(napi_env env, void *data) {
    (void)env;
    struct job *job = &((struct pending *)data)->job;
    const bool opens = job->command == &context_commands[0];
    job->rc = opens || job->tpm->esys != NULL ? job->command->run(job) : TSS2_ESYS_RC_BAD_REFERENCE;
}

static bool write_value(napi_env env, const struct value *from, napi_value *to) {
    void *data = NULL;
    napi_value buffer;
    if (!from->is_bytes) {
        CHECK(napi_create_uint32(env, from->number, to));
        return true;
    }
    CHECK(napi_create_arraybuffer(env, from->size, &data, &buffer));
    if (from->size > 0) memcpy(data, from->bytes, from->size);
    CHECK(napi_create_typedarray(env, napi_uint8_array, from->size, buffer, 0, to));
    return true;
}

static bool write_outputs(napi_env env, const struct job *job, napi_value *array) {
    CHECK(napi_create_array_with_length(env, job->out_count, array));
    for (size_t index = 0; index < job->out_count; index++) {
        napi_value element;
        if (!write_value(env, &job->out[index], &element)) return false;
        CHECK(napi_set_element(env, *array, (uint32_t)index, element));
    }
    return true;
}

/* The rejection is the bare response code; JavaScript makes the TpmError of it, with a stack that leads to the caller. */
static void complete(napi_env env, napi_status status, void *data) {
    struct pending *pending = data;
    napi_value result = NULL;
    pending->job.tpm->busy = false;
    if (status != napi_ok) pending->job.rc = TSS2_ESYS_RC_GENERAL_FAILURE;
    if (pending->job.rc == TSS2_RC_SUCCESS && !write_outputs(env, &pending->job, &result)) pending->job.rc = TSS2_ESYS_RC_MEMORY;
    if (pending->job.rc == TSS2_RC_SUCCESS) {
        (void)napi_resolve_deferred(env, pending->deferred, result);
    } else if (napi_create_uint32(env, pending->job.rc, &result) == napi_ok) {
        (void)napi_reject_deferred(env, pending->deferred, result);
    }
    free_pending(env, pending);
}

/* Once the promise exists it must be settled, so it is made after everything that can fail but the queueing itself. */
static bool start(napi_env env, napi_value connection, struct pending *pending, napi_value *promise) {
    napi_value label;
    CHECK(napi_create_string_utf8(env, pending->job.command->name, NAPI_AUTO_LENGTH, &label));
    CHECK(napi_create_reference(env, connection, 1, &pending->connection));
    CHECK(napi_create_async_work(env, NULL, label, execute, complete, pending, &pending->work));
    CHECK(napi_create_promise(env, &pending->deferred, promise));
    CHECK(napi_queue_async_work(env, pending->work));
    pending->job.tpm->busy = true;
    return true;
}

/* ---- what JavaScript calls ---- */

static napi_value run(napi_env env, napi_callback_info info) {
    napi_value argv[4];
    napi_value promise = NULL;
    size_t argc = 4;
    struct pending *pending = calloc(1, sizeof *pending);
    if (pending == NULL) {
        (void)napi_throw_error(env, NULL, "out of memory");
        return NULL;
    }
    const bool started = napi_get_cb_info(env, info, &argc, argv, NULL, NULL) == napi_ok && argc == 4 &&
                         read_connection(env, argv[0], &pending->job) && read_command(env, argv[1], &pending->job) &&
                         read_sessions(env, argv[2], &pending->job) && read_inputs(env, argv[3], &pending->job) &&
                         start(env, argv[0], pending, &promise);
    if (started) return promise;
    free_pending(env, pending);
    (void)napi_throw_type_error(env, NULL, "tpm2_tss run: connection busy or foreign, unknown command, or wrong inputs");
    return NULL;
}

static void finalize_connection(napi_env env, void *data, void *hint) {
    struct tpm *tpm = data;
    (void)env;
    (void)hint;
    /* At exit a worker may still be inside ESYS: leaking is right, freeing under it is not. */
    if (tpm->busy) return;
    close_tpm(tpm);
    free(tpm);
}

static napi_value connection(napi_env env, napi_callback_info info) {
    napi_value object;
    (void)info;
    struct tpm *tpm = calloc(1, sizeof *tpm);
    if (tpm == NULL || napi_create_object(env, &object) != napi_ok) {
        free(tpm);
        (void)napi_throw_error(env, NULL, "out of memory");
        return NULL;
    }
    if (napi_wrap(env, object, tpm, finalize_connection, NULL, NULL) != napi_ok) {
        free(tpm);
        return NULL;
    }
    return napi_type_tag_object(env, object, &connection_tag) == napi_ok ? object : NULL;
}

static napi_value decode(napi_env env, napi_callback_info info) {
    napi_value argv[1];
    napi_value text = NULL;
    size_t argc = 1;
    uint32_t rc = 0;
    if (napi_get_cb_info(env, info, &argc, argv, NULL, NULL) != napi_ok || argc != 1 || napi_get_value_uint32(env, argv[0], &rc) != napi_ok) {
        (void)napi_throw_type_error(env, NULL, "decode: expected a response code");
        return NULL;
    }
    (void)napi_create_string_utf8(env, Tss2_RC_Decode(rc), NAPI_AUTO_LENGTH, &text);
    return text;
}

NAPI_MODULE_INIT() {
    const napi_property_descriptor functions[] = {
        {"connection", NULL, connection, NULL, NULL, NULL, napi_enumerable, NULL},
        {"run", NULL, run, NULL, NULL, NULL, napi_enumerable, NULL},
        {"decode", NULL, decode, NULL, NULL, NULL, napi_enumerable, NULL},
    };
    /* What a configuration names would be loaded into this process. */
    if (OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL) != 1) return NULL;
    /* libtss2 logs to stderr, at the trace level every buffer it sends; errors reach the caller as TpmError instead. */
    if (setenv("TSS2_LOG", "all+NONE", 1) != 0) return NULL;
    return napi_define_properties(env, exports, sizeof functions / sizeof functions[0], functions) == napi_ok ? exports : NULL;
}
