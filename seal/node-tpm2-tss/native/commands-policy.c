/* Policy commands: each changes the digest of a policy or trial session, or reads it. */
#include "tpm2_tss.h"

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

/* in: authHandle, index, policySession, operandB, offset, operation. */
static TSS2_RC run_policy_nv(struct job *job) {
    TPM2B_OPERAND operand;
    TSS2_RC rc = in_digest(job, 3, &operand);
    THEN(Esys_PolicyNV(job->tpm->esys, job->in[0].number, job->in[1].number, job->in[2].number, SESSIONS(job), &operand,
                       (UINT16)job->in[4].number, (TPM2_EO)job->in[5].number));
    return rc;
}

/* in: policySession, writtenSet. */
static TSS2_RC run_policy_nv_written(struct job *job) {
    return Esys_PolicyNvWritten(job->tpm->esys, job->in[0].number, SESSIONS(job), job->in[1].number != 0 ? TPM2_YES : TPM2_NO);
}

/* in: policySession. */
static TSS2_RC run_policy_auth_value(struct job *job) {
    return Esys_PolicyAuthValue(job->tpm->esys, job->in[0].number, SESSIONS(job));
}

/* in: policySession. */
static TSS2_RC run_policy_password(struct job *job) {
    return Esys_PolicyPassword(job->tpm->esys, job->in[0].number, SESSIONS(job));
}

/* in: policySession, cpHashA. */
static TSS2_RC run_policy_cp_hash(struct job *job) {
    TPM2B_DIGEST hash;
    TSS2_RC rc = in_digest(job, 1, &hash);
    THEN(Esys_PolicyCpHash(job->tpm->esys, job->in[0].number, SESSIONS(job), &hash));
    return rc;
}

/* in: policySession, nameHash. */
static TSS2_RC run_policy_name_hash(struct job *job) {
    TPM2B_DIGEST hash;
    TSS2_RC rc = in_digest(job, 1, &hash);
    THEN(Esys_PolicyNameHash(job->tpm->esys, job->in[0].number, SESSIONS(job), &hash));
    return rc;
}

const struct command policy_commands[] = {
    {"PolicySecret", "nnbbbn", run_policy_secret},
    {"PolicyPCR", "nbb", run_policy_pcr},
    {"PolicyNV", "nnnbnn", run_policy_nv},
    {"PolicyNvWritten", "nn", run_policy_nv_written},
    {"PolicyOR", "nb", run_policy_or},
    {"PolicyAuthValue", "n", run_policy_auth_value},
    {"PolicyPassword", "n", run_policy_password},
    {"PolicyCommandCode", "nn", run_policy_command_code},
    {"PolicyCpHash", "nb", run_policy_cp_hash},
    {"PolicyNameHash", "nb", run_policy_name_hash},
    {"PolicyAuthorize", "nbbbb", run_policy_authorize},
    {"PolicyGetDigest", "n", run_policy_get_digest},
    {"PolicyRestart", "n", run_policy_restart},
    {NULL, NULL, NULL},
};
