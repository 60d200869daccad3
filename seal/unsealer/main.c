/*
 * One-shot unsealer: reads a request, asks the TPM, writes the PIN to the sinks, prints one line, ends.
 * A process of its own because libtss2 keeps copies of what it unsealed until its memory is gone: see ../FORMATS.md, section 7.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <tss2/tss2_esys.h>
#include <tss2/tss2_tctildr.h>
#include <unistd.h>

#include "answer.h"
#include "ek.h"
#include "release.h"
#include "request.h"
#include "secret.h"

static unsigned long milliseconds(void)
{
    struct timespec now;

    if (clock_gettime(CLOCK_MONOTONIC, &now) != 0)
        return 0;
    return (unsigned long)now.tv_sec * 1000 + (unsigned long)now.tv_nsec / 1000000;
}

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

/* With discard there are no sinks: what was inherited is closed, so that nothing could be written. */
static int read_request(struct request *ret, bool discard, struct answer *answer)
{
    static uint8_t bytes[REQUEST_MAX + 1];
    size_t length;
    const char *field = "size";

    if (read_input(bytes, REQUEST_MAX, &length) == 0)
        field = parse_request(bytes, length, ret);
    if (field == NULL && !check_sinks(discard ? 0 : ret->sinks))
        field = "sinks";
    if (field == NULL)
        return 0;
    answer_failed(answer, "request", 0, field);
    return -1;
}

/* The data is in libtss2's memory only as long as it takes to copy it to the locked page. */
static void deliver(TPM2B_SENSITIVE_DATA *data, uint8_t *page, const struct request *request, bool discard, struct answer *answer)
{
    const size_t size = data->size;

    if (!discard)
        memcpy(page, data->buffer, size);
    explicit_bzero(data, sizeof *data);
    if (discard) {
        answer->outcome = OUTCOME_DISCARDED;
        return;
    }
    int written = write_sinks(page, size, request->sinks);
    explicit_bzero(page, size);
    if (written == 0)
        answer->outcome = OUTCOME_RELEASED;
    else
        answer_failed(answer, "write", 0, "sealed data is malformed, or a sink is closed");
}

static void release_object(ESYS_CONTEXT *esys, const struct request *request, const struct tickets *tickets, const struct ek *ek,
                           uint8_t *page, bool discard, struct answer *answer)
{
    ESYS_TR object = ESYS_TR_NONE;
    TPM2B_SENSITIVE_DATA *data = NULL;

    if (load_sealed(esys, request, ek, &object, answer) != 0)
        return;
    int refused = unseal(esys, request, tickets, ek->handle, object, &data, answer);
    (void)Esys_FlushContext(esys, object);
    if (refused == 0)
        deliver(data, page, request, discard, answer);
    else if (data != NULL)
        explicit_bzero(data, sizeof *data);
    Esys_Free(data);
}

static void run(ESYS_CONTEXT *esys, const struct request *request, uint8_t *page, bool discard, struct answer *answer)
{
    struct tickets tickets;
    struct ek ek;

    if (verify_approvals(esys, request, &tickets, answer) != 0)
        return;
    if (open_ek(esys, request, &ek, answer) != 0)
        return;
    release_object(esys, request, &tickets, &ek, page, discard, answer);
    close_ek(esys, &ek);
}

static void run_with_tpm(const char *tcti_name, const struct request *request, bool discard, struct answer *answer)
{
    TSS2_TCTI_CONTEXT *tcti = NULL;
    ESYS_CONTEXT *esys = NULL;
    uint8_t *page = open_secret_page();

    if (page == NULL) {
        answer_failed(answer, "mlock", 0, "no locked page");
        return;
    }
    TSS2_RC rc = Tss2_TctiLdr_Initialize(tcti_name, &tcti);
    if (rc == TSS2_RC_SUCCESS)
        rc = Esys_Initialize(&esys, tcti, NULL);
    if (rc == TSS2_RC_SUCCESS)
        run(esys, request, page, discard, answer);
    else
        answer_failed(answer, "TCTI", rc, NULL);
    if (esys != NULL)
        Esys_Finalize(&esys);
    if (tcti != NULL)
        Tss2_TctiLdr_Finalize(&tcti);
    close_secret_page(page);
}

int main(int argc, char **argv)
{
    struct answer answer = { .outcome = OUTCOME_FAILED };
    static struct request request;
    const bool discard = argc == 3 && strcmp(argv[2], "--discard") == 0;
    const unsigned long start = milliseconds();

    /* libtss2 would print names of files and commands, and in its debug levels their contents. */
    if (harden_process() != 0 || setenv("TSS2_LOG", "all+NONE", 1) != 0)
        answer_failed(&answer, "harden", 0, strerror(errno));
    else if (argc != 2 && !discard)
        answer_failed(&answer, "request", 0, "arguments");
    else if (read_request(&request, discard, &answer) == 0)
        run_with_tpm(argv[1], &request, discard, &answer);
    answer.ms = milliseconds() - start;
    return print_answer(&answer);
}
