/*
 * Unseal, in two forms. This file wipes the copies it is given; libtss2 keeps the TPM's last response in the heap of its
 * context, decrypted, until a later command overwrites it.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "tpm2_tss.h"

static void free_wiped(TPM2B_SENSITIVE_DATA *data) {
    if (data != NULL) explicit_bzero(data, sizeof *data);
    Esys_Free(data);
}

/* in: object. out: data. */
static TSS2_RC run_unseal(struct job *job) {
    TPM2B_SENSITIVE_DATA *data = NULL;
    TSS2_RC rc = Esys_Unseal(job->tpm->esys, job->in[0].number, SESSIONS(job), &data);
    THEN(out_bytes(job, data->buffer, data->size));
    free_wiped(data);
    return rc;
}

static TSS2_RC write_all(int fd, const uint8_t *bytes, size_t size) {
    for (size_t done = 0; done < size;) {
        const ssize_t written = write(fd, bytes + done, size - done);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return TSS2_ESYS_RC_IO_ERROR;
        done += (size_t)written;
    }
    return TSS2_RC_SUCCESS;
}

/* in: object, file descriptor. out: how many bytes were written. The data crosses to no other thread. */
static TSS2_RC run_unseal_to_fd(struct job *job) {
    TPM2B_SENSITIVE_DATA *data = NULL;
    TSS2_RC rc = Esys_Unseal(job->tpm->esys, job->in[0].number, SESSIONS(job), &data);
    THEN(write_all((int)job->in[1].number, data->buffer, data->size));
    THEN(out_number(job, data->size));
    free_wiped(data);
    return rc;
}

const struct command unseal_commands[] = {
    {"Unseal", "n", run_unseal},
    {"UnsealToFd", "nn", run_unseal_to_fd},
    {NULL, NULL, NULL},
};
