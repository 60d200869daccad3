/* The connection to one TPM, and what ESYS keeps about handles without asking the TPM. */
#include <string.h>

#include "tpm2_tss.h"

void close_tpm(struct tpm *tpm) {
    if (tpm->esys != NULL) Esys_Finalize(&tpm->esys);
    if (tpm->tcti != NULL) Tss2_TctiLdr_Finalize(&tpm->tcti);
}

/* The configuration is explicit: NULL would make the loader search for any TPM, a local TCP port included. */
static TSS2_RC run_open(struct job *job) {
    char configuration[512];
    const struct value *text = &job->in[0];
    if (job->tpm->esys != NULL) return TSS2_ESYS_RC_BAD_SEQUENCE;
    if (text->size == 0 || text->size >= sizeof configuration || memchr(text->bytes, 0, text->size) != NULL) return TSS2_TCTI_RC_BAD_VALUE;
    memcpy(configuration, text->bytes, text->size);
    configuration[text->size] = '\0';

    TSS2_RC rc = Tss2_TctiLdr_Initialize(configuration, &job->tpm->tcti);
    THEN(Esys_Initialize(&job->tpm->esys, job->tpm->tcti, NULL));
    if (rc != TSS2_RC_SUCCESS) close_tpm(job->tpm);
    return rc;
}

static TSS2_RC run_close(struct job *job) {
    close_tpm(job->tpm);
    return TSS2_RC_SUCCESS;
}

/* The object's public area is read with TPM2_ReadPublic or TPM2_NV_ReadPublic: without a session it is the word of whoever answers. */
static TSS2_RC run_tr_from_tpm_public(struct job *job) {
    ESYS_TR object = ESYS_TR_NONE;
    TSS2_RC rc = Esys_TR_FromTPMPublic(job->tpm->esys, job->in[0].number, SESSIONS(job), &object);
    THEN(out_number(job, object));
    THEN(out_name_of(job, object));
    return rc;
}

/* Forgets the handle in ESYS; the object stays in the TPM. */
static TSS2_RC run_tr_close(struct job *job) {
    ESYS_TR object = job->in[0].number;
    return Esys_TR_Close(job->tpm->esys, &object);
}

/* in: handle, authValue. ESYS keeps the value with the handle, for "password" and for HMAC sessions. */
static TSS2_RC run_tr_set_auth(struct job *job) {
    TPM2B_AUTH auth;
    TSS2_RC rc = in_digest(job, 1, &auth);
    THEN(Esys_TR_SetAuth(job->tpm->esys, job->in[0].number, &auth));
    explicit_bzero(&auth, sizeof auth);
    return rc;
}

/* What the TPM lost already, as by Clear, is only forgotten: otherwise it could not be given up at all. */
static TSS2_RC run_flush_context(struct job *job) {
    const TSS2_RC gone = TPM2_RC_HANDLE | TPM2_RC_P | TPM2_RC_1;
    const TSS2_RC rc = Esys_FlushContext(job->tpm->esys, job->in[0].number);
    return (rc & ~TSS2_RC_LAYER_MASK) == gone ? run_tr_close(job) : rc;
}

/* in: the TPM's own handle, of an object or a session that this connection did not make. */
static TSS2_RC run_flush_handle(struct job *job) {
    ESYS_TR left = ESYS_TR_NONE;
    TSS2_RC rc = Esys_TR_FromTPMPublic(job->tpm->esys, job->in[0].number, SESSIONS(job), &left);
    THEN(Esys_FlushContext(job->tpm->esys, left));
    return rc;
}

/* Whether ESYS takes commands: it looks at the sequence first, and then refuses an object without an authorisation. Nothing is sent. */
static TSS2_RC run_ready(struct job *job) {
    const TSS2_RC rc = Esys_Unseal_Async(job->tpm->esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE);
    return rc == TSS2_ESYS_RC_BAD_SEQUENCE ? rc : TSS2_RC_SUCCESS;
}

const struct command context_commands[] = {
    {"Open", "b", run_open},
    {"Close", "", run_close},
    {"Ready", "", run_ready},
    {"TR_FromTPMPublic", "n", run_tr_from_tpm_public},
    {"TR_Close", "n", run_tr_close},
    {"TR_SetAuth", "nb", run_tr_set_auth},
    {"FlushContext", "n", run_flush_context},
    {"FlushHandle", "n", run_flush_handle},
    {NULL, NULL, NULL},
};

static const struct command *const tables[] = {
    context_commands, session_commands, policy_commands,    object_commands,  unseal_commands,
    proof_commands,   pcr_commands,     nv_commands,        hierarchy_commands, general_commands,
};

const struct command *find_command(const char *name) {
    for (size_t table = 0; table < sizeof tables / sizeof tables[0]; table++) {
        for (const struct command *command = tables[table]; command->name != NULL; command++) {
            if (strcmp(command->name, name) == 0) return command;
        }
    }
    return NULL;
}
