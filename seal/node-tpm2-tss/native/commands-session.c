/* Sessions and the policy commands that run in them. */
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

/* in: authHandle, policySession, nonceTPM, cpHashA, policyRef, expiration. out: timeout, ticket. */
static TSS2_RC run_policy_secret(struct job *job) {
    TPM2B_NONCE nonce;
    TPM2B_DIGEST cp_hash;
    TPM2B_NONCE policy_ref;
    TPM2B_TIMEOUT *timeout = NULL;
    TPMT_TK_AUTH *ticket = NULL;
    TSS2_RC rc = in_digest(job, 2, &nonce);
    THEN(in_digest(job, 3, &cp_hash));
    THEN(in_digest(job, 4, &policy_ref));
    THEN(Esys_PolicySecret(job->tpm->esys, job->in[0].number, job->in[1].number, SESSIONS(job), &nonce, &cp_hash, &policy_ref,
                           (INT32)job->in[5].number, &timeout, &ticket));
    THEN(out_bytes(job, timeout->buffer, timeout->size));
    THEN(out_auth_ticket(job, ticket));
    Esys_Free(timeout);
    Esys_Free(ticket);
    return rc;
}

/* in: policySession, pcrDigest, pcrs. */
static TSS2_RC run_policy_pcr(struct job *job) {
    TPM2B_DIGEST digest;
    TPML_PCR_SELECTION selection;
    TSS2_RC rc = in_digest(job, 1, &digest);
    THEN(in_pcr_selection(job, 2, &selection));
    THEN(Esys_PolicyPCR(job->tpm->esys, job->in[0].number, SESSIONS(job), &digest, &selection));
    return rc;
}

/* in: policySession, branches (TPML_DIGEST). */
static TSS2_RC run_policy_or(struct job *job) {
    TPML_DIGEST branches;
    TSS2_RC rc = in_digest_list(job, 1, &branches);
    THEN(Esys_PolicyOR(job->tpm->esys, job->in[0].number, SESSIONS(job), &branches));
    return rc;
}

/* in: policySession, code. */
static TSS2_RC run_policy_command_code(struct job *job) {
    return Esys_PolicyCommandCode(job->tpm->esys, job->in[0].number, SESSIONS(job), job->in[1].number);
}

/* in: policySession, approvedPolicy, policyRef, keySign, checkTicket. */
static TSS2_RC run_policy_authorize(struct job *job) {
    TPM2B_DIGEST approved;
    TPM2B_NONCE policy_ref;
    TPM2B_NAME key_sign;
    TPMT_TK_VERIFIED ticket;
    TSS2_RC rc = in_digest(job, 1, &approved);
    THEN(in_digest(job, 2, &policy_ref));
    THEN(in_name(job, 3, &key_sign));
    THEN(in_verified_ticket(job, 4, &ticket));
    THEN(Esys_PolicyAuthorize(job->tpm->esys, job->in[0].number, SESSIONS(job), &approved, &policy_ref, &key_sign, &ticket));
    return rc;
}

/* in: policySession. out: policyDigest. */
static TSS2_RC run_policy_get_digest(struct job *job) {
    TPM2B_DIGEST *digest = NULL;
    TSS2_RC rc = Esys_PolicyGetDigest(job->tpm->esys, job->in[0].number, SESSIONS(job), &digest);
    THEN(out_bytes(job, digest->buffer, digest->size));
    Esys_Free(digest);
    return rc;
}

/* in: session. */
static TSS2_RC run_policy_restart(struct job *job) {
    return Esys_PolicyRestart(job->tpm->esys, job->in[0].number, SESSIONS(job));
}

const struct command session_commands[] = {
    {"StartAuthSession", "nnnnnn", run_start_auth_session},
    {"TRSess_GetNonceTPM", "n", run_get_nonce_tpm},
    {"PolicySecret", "nnbbbn", run_policy_secret},
    {"PolicyPCR", "nbb", run_policy_pcr},
    {"PolicyOR", "nb", run_policy_or},
    {"PolicyCommandCode", "nn", run_policy_command_code},
    {"PolicyAuthorize", "nbbbb", run_policy_authorize},
    {"PolicyGetDigest", "n", run_policy_get_digest},
    {"PolicyRestart", "n", run_policy_restart},
    {NULL, NULL, NULL},
};
