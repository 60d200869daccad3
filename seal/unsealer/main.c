/*
 * One-shot unsealer: reads a request, asks the TPM, writes the secret to the sinks, prints one line, ends.
 * A process of its own, so that whatever a library may have copied goes with its memory: see ../FORMATS.md, section 8.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <tss2/tss2_esys.h>
#include <tss2/tss2_tctildr.h>
#include <unistd.h>

#include "answer.h"
#include "clock.h"
#include "decrypt.h"
#include "ek.h"
#include "openssl.h"
#include "release.h"
#include "request.h"
#include "secret.h"
#include "standby.h"

enum how { HOW_AT_ONCE, HOW_WAIT, HOW_DISCARD };

/* 0 with the number of bytes before the end of the input, or -1 when there are more than max. */
static int read_input(uint8_t *buffer, size_t max, size_t *ret)
{
    size_t length = 0;

    for (;;) {
        ssize_t got = read(STDIN_FILENO, buffer + length, max + 1 - length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 || length + (size_t)got > max)
            return -1;
        if (got == 0)
            break;
        length += (size_t)got;
    }
    *ret = length;
    return 0;
}

static int read_request(struct request *ret, enum how how, struct sinks *sinks, struct answer *answer)
{
    static uint8_t bytes[REQUEST_MAX + 1];
    size_t length;
    const char *field = "size";
    const int got = how == HOW_WAIT ? receive_input(bytes, REQUEST_MAX, &length) : read_input(bytes, REQUEST_MAX, &length);

    if (got == 0)
        field = parse_request(bytes, length, ret);
    /* With discard there are none: what was inherited is closed, so that nothing could be written. */
    if (field == NULL && how != HOW_WAIT && !take_inherited(how == HOW_DISCARD ? 0 : ret->sinks, sinks))
        field = "sinks";
    if (field == NULL)
        return 0;
    answer_failed(answer, "request", 0, field);
    return -1;
}

/* The key is in libtss2's memory only as long as it takes to copy it to locked pages, and there until the secret is decrypted. */
static void deliver(TPM2B_SENSITIVE_DATA *data, struct secret *secret, const struct request *request, const struct sinks *sinks,
                    struct answer *answer)
{
    const bool is_key = data->size == sizeof secret->key;

    if (is_key)
        memcpy(secret->key, data->buffer, sizeof secret->key);
    explicit_bzero(data, sizeof *data);
    size_t length = is_key ? decrypt_secret(request, secret) : 0;
    explicit_bzero(secret->key, sizeof secret->key);
    if (length == 0) {
        answer_failed(answer, "decrypt", 0, "the ciphertext does not belong to key and label");
        return;
    }
    int written = write_sinks(secret->padded, 2 + length, sinks);
    explicit_bzero(secret->padded, sizeof secret->padded);
    if (written == 0)
        answer->outcome = OUTCOME_RELEASED;
    else
        answer_failed(answer, "write", 0, "a sink is closed, or nobody reads it");
}

/* One credential: what is asked for, and where it goes. */
struct order {
    enum how how;
    struct request request;
    struct sinks sinks;
};

static void release_object(ESYS_CONTEXT *esys, struct order *order, const struct tickets *tickets, const struct ek *ek,
                           struct secret *secret, struct answer *answer)
{
    ESYS_TR object = ESYS_TR_NONE;
    TPM2B_SENSITIVE_DATA *data = NULL;

    if (load_sealed(esys, &order->request, ek, &object, answer) != 0)
        return;
    struct word word = { .sinks = order->how == HOW_WAIT ? &order->sinks : NULL, .given = order->how != HOW_WAIT };
    bool released = unseal(esys, &order->request, tickets, &word, ek->handle, object, &data, answer) == 0;
    (void)Esys_FlushContext(esys, object);
    if (released && order->how == HOW_DISCARD)
        answer->outcome = OUTCOME_DISCARDED;
    else if (released)
        deliver(data, secret, &order->request, &order->sinks, answer);
    if (data != NULL)
        explicit_bzero(data, sizeof *data);
    Esys_Free(data);
}

static void run(ESYS_CONTEXT *esys, struct order *order, struct secret *secret, struct answer *answer)
{
    struct tickets tickets;
    struct ek ek;

    if (order->how == HOW_WAIT && read_request(&order->request, order->how, &order->sinks, answer) != 0)
        return;
    if (verify_approvals(esys, &order->request, &tickets, answer) != 0)
        return;
    if (open_ek(esys, &order->request, &ek, answer) != 0)
        return;
    release_object(esys, order, &tickets, &ek, secret, answer);
    close_ek(esys, &ek);
}

static void run_with_tpm(const char *tcti_name, struct order *order, struct answer *answer)
{
    TSS2_TCTI_CONTEXT *tcti = NULL;
    ESYS_CONTEXT *esys = NULL;
    struct secret *secret = open_secret();

    if (secret == NULL) {
        answer_failed(answer, "mlock", 0, "no locked pages");
        return;
    }
    TSS2_RC rc = Tss2_TctiLdr_Initialize(tcti_name, &tcti);
    if (rc == TSS2_RC_SUCCESS)
        rc = Esys_Initialize(&esys, tcti, NULL);
    if (rc == TSS2_RC_SUCCESS)
        run(esys, order, secret, answer);
    else
        answer_failed(answer, "TCTI", rc, NULL);
    if (esys != NULL)
        Esys_Finalize(&esys);
    if (tcti != NULL)
        Tss2_TctiLdr_Finalize(&tcti);
    close_secret(secret);
}

/* 0, or -1 for arguments that are none of these. */
static int parse_arguments(int argc, char **argv, enum how *ret)
{
    *ret = HOW_AT_ONCE;
    if (argc == 2)
        return 0;
    if (argc == 3 && strcmp(argv[2], "--wait") == 0)
        *ret = HOW_WAIT;
    else if (argc == 3 && strcmp(argv[2], "--discard") == 0)
        *ret = HOW_DISCARD;
    else
        return -1;
    return 0;
}

/* One that waits has its connection to the TPM when its request comes. */
static int begin(struct order *order, struct answer *answer)
{
    if (order->how != HOW_WAIT)
        return read_request(&order->request, order->how, &order->sinks, answer);
    if (take_inherited(0, &order->sinks))
        return 0;
    answer_failed(answer, "request", 0, "descriptors");
    return -1;
}

int main(int argc, char **argv)
{
    struct answer answer = { .outcome = OUTCOME_FAILED };
    static struct order order;
    const long start = milliseconds();

    /* libtss2 would print names of files and commands, and in its debug levels their contents. */
    if (harden_process() != 0 || setenv("TSS2_LOG", "all+NONE", 1) != 0)
        answer_failed(&answer, "harden", 0, strerror(errno));
    else if (parse_arguments(argc, argv, &order.how) != 0)
        answer_failed(&answer, "request", 0, "arguments");
    else if (open_openssl() != 0)
        answer_failed(&answer, "OpenSSL", 0, "none that works");
    else if (begin(&order, &answer) == 0)
        run_with_tpm(argv[1], &order, &answer);
    if (order.how == HOW_WAIT)
        hear_request();
    answer.ms = (unsigned long)(milliseconds() - start);
    return print_answer(&answer);
}
