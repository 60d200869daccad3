/* Sessions, and saved contexts of sessions and objects. */
#include "tpm2_tss.h"

/* keyBits 0 asks for no parameter encryption, else AES-CFB; what encrypts is decided by the session's attributes. */
static TPMT_SYM_DEF symmetric_definition(uint32_t key_bits) {
    TPMT_SYM_DEF symmetric = {.algorithm = TPM2_ALG_NULL};
    if (key_bits != 0) {
        symmetric.algorithm = TPM2_ALG_AES;
        symmetric.keyBits.aes = (TPM2_KEY_BITS)key_bits;
        symmetric.mode.aes = TPM2_ALG_CFB;
    }
    return symmetric;
}

/* in: tpmKey, bind, sessionType, authHash, keyBits, attributes. out: session. */
static TSS2_RC run_start_auth_session(struct job *job) {
    ESYS_CONTEXT *esys = job->tpm->esys;
    const TPMT_SYM_DEF symmetric = symmetric_definition(job->in[4].number);
    ESYS_TR session = ESYS_TR_NONE;
    TSS2_RC rc = Esys_StartAuthSession(esys, job->in[0].number, job->in[1].number, SESSIONS(job), NULL, (TPM2_SE)job->in[2].number,
                                       &symmetric, (TPMI_ALG_HASH)job->in[3].number, &session);
    if (rc != TSS2_RC_SUCCESS) return rc;
    rc = Esys_TRSess_SetAttributes(esys, session, (TPMA_SESSION)job->in[5].number, 0xff);
    THEN(out_number(job, session));
    if (rc != TSS2_RC_SUCCESS) (void)Esys_FlushContext(esys, session);
    return rc;
}

/* in: session. out: nonceTPM. */
static TSS2_RC run_get_nonce_tpm(struct job *job) {
    TPM2B_NONCE *nonce = NULL;
    TSS2_RC rc = Esys_TRSess_GetNonceTPM(job->tpm->esys, job->in[0].number, &nonce);
    THEN(out_bytes(job, nonce->buffer, nonce->size));
    Esys_Free(nonce);
    return rc;
}

/* in: handle. out: TPMS_CONTEXT, with what ESYS knows of the handle inside. A saved session is gone from ESYS, an object stays. */
static TSS2_RC run_context_save(struct job *job) {
    TPMS_CONTEXT *context = NULL;
    TSS2_RC rc = Esys_ContextSave(job->tpm->esys, job->in[0].number, &context);
    THEN(out_context(job, context));
    Esys_Free(context);
    return rc;
}

/* in: TPMS_CONTEXT. out: handle, the TPM's own handle, and the Name of an object. */
static TSS2_RC run_context_load(struct job *job) {
    TPMS_CONTEXT context;
    TPM2_HANDLE handle = 0;
    ESYS_TR loaded = ESYS_TR_NONE;
    TSS2_RC rc = in_context(job, 0, &context);
    THEN(Esys_ContextLoad(job->tpm->esys, &context, &loaded));
    THEN(Esys_TR_GetTpmHandle(job->tpm->esys, loaded, &handle));
    const TPM2_HANDLE range = handle & TPM2_HR_RANGE_MASK;
    /* ESYS takes a response without a handle for one, and then finds it in what it sent. */
    if (rc == TSS2_RC_SUCCESS && range != TPM2_HR_TRANSIENT && range != TPM2_HR_HMAC_SESSION && range != TPM2_HR_POLICY_SESSION) {
        (void)Esys_TR_Close(job->tpm->esys, &loaded);
        rc = TSS2_ESYS_RC_MALFORMED_RESPONSE;
    }
    THEN(out_number(job, loaded));
    THEN(out_number(job, handle));
    if (range == TPM2_HR_TRANSIENT) THEN(out_name_of(job, loaded));
    if (rc != TSS2_RC_SUCCESS && loaded != ESYS_TR_NONE) (void)Esys_FlushContext(job->tpm->esys, loaded);
    return rc;
}

const struct command session_commands[] = {
    {"StartAuthSession", "nnnnnn", run_start_auth_session},
    {"TRSess_GetNonceTPM", "n", run_get_nonce_tpm},
    {"ContextSave", "n", run_context_save},
    {"ContextLoad", "b", run_context_load},
    {NULL, NULL, NULL},
};
