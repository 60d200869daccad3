/* Signed statements of the TPM, signatures, and credentials. */
#include <string.h>

#include "tpm2_tss.h"

/* out: TPMS_ATTEST exactly as signed, signature. Frees both. */
static TSS2_RC out_attestation(struct job *job, TSS2_RC rc, TPM2B_ATTEST *attest, TPMT_SIGNATURE *signature) {
    THEN(out_bytes(job, attest->attestationData, attest->size));
    THEN(out_signature(job, signature));
    Esys_Free(attest);
    Esys_Free(signature);
    return rc;
}

/* in: key, qualifyingData, scheme, selection. out: attestation. */
static TSS2_RC run_quote(struct job *job) {
    TPM2B_DATA qualifying;
    TPMT_SIG_SCHEME scheme;
    TPML_PCR_SELECTION selection;
    TPM2B_ATTEST *attest = NULL;
    TPMT_SIGNATURE *signature = NULL;
    TSS2_RC rc = in_data(job, 1, &qualifying);
    THEN(in_sig_scheme(job, 2, &scheme));
    THEN(in_pcr_selection(job, 3, &selection));
    THEN(Esys_Quote(job->tpm->esys, job->in[0].number, SESSIONS(job), &qualifying, &scheme, &selection, &attest, &signature));
    return out_attestation(job, rc, attest, signature);
}

/* in: object, key, qualifyingData, scheme. out: attestation. */
static TSS2_RC run_certify(struct job *job) {
    TPM2B_DATA qualifying;
    TPMT_SIG_SCHEME scheme;
    TPM2B_ATTEST *attest = NULL;
    TPMT_SIGNATURE *signature = NULL;
    TSS2_RC rc = in_data(job, 2, &qualifying);
    THEN(in_sig_scheme(job, 3, &scheme));
    THEN(Esys_Certify(job->tpm->esys, job->in[0].number, job->in[1].number, SESSIONS(job), &qualifying, &scheme, &attest, &signature));
    return out_attestation(job, rc, attest, signature);
}

/* in: key, object, qualifyingData, creationHash, scheme, creationTicket. out: attestation. */
static TSS2_RC run_certify_creation(struct job *job) {
    TPM2B_DATA qualifying;
    TPM2B_DIGEST hash;
    TPMT_SIG_SCHEME scheme;
    TPMT_TK_CREATION ticket;
    TPM2B_ATTEST *attest = NULL;
    TPMT_SIGNATURE *signature = NULL;
    TSS2_RC rc = in_data(job, 2, &qualifying);
    THEN(in_digest(job, 3, &hash));
    THEN(in_sig_scheme(job, 4, &scheme));
    THEN(in_creation_ticket(job, 5, &ticket));
    THEN(Esys_CertifyCreation(job->tpm->esys, job->in[0].number, job->in[1].number, SESSIONS(job), &qualifying, &hash, &scheme, &ticket,
                              &attest, &signature));
    return out_attestation(job, rc, attest, signature);
}

/* in: key, authHandle, index, qualifyingData, scheme, size, offset. out: attestation. */
static TSS2_RC run_nv_certify(struct job *job) {
    TPM2B_DATA qualifying;
    TPMT_SIG_SCHEME scheme;
    TPM2B_ATTEST *attest = NULL;
    TPMT_SIGNATURE *signature = NULL;
    TSS2_RC rc = in_data(job, 3, &qualifying);
    THEN(in_sig_scheme(job, 4, &scheme));
    THEN(Esys_NV_Certify(job->tpm->esys, job->in[0].number, job->in[1].number, job->in[2].number, SESSIONS(job), &qualifying, &scheme,
                         (UINT16)job->in[5].number, (UINT16)job->in[6].number, &attest, &signature));
    return out_attestation(job, rc, attest, signature);
}

/* in: privacyAdmin, key, qualifyingData, scheme. out: attestation. */
static TSS2_RC run_get_time(struct job *job) {
    TPM2B_DATA qualifying;
    TPMT_SIG_SCHEME scheme;
    TPM2B_ATTEST *attest = NULL;
    TPMT_SIGNATURE *signature = NULL;
    TSS2_RC rc = in_data(job, 2, &qualifying);
    THEN(in_sig_scheme(job, 3, &scheme));
    THEN(Esys_GetTime(job->tpm->esys, job->in[0].number, job->in[1].number, SESSIONS(job), &qualifying, &scheme, &attest, &signature));
    return out_attestation(job, rc, attest, signature);
}

/* in: key, digest, scheme, TPMT_TK_HASHCHECK. out: signature. */
static TSS2_RC run_sign(struct job *job) {
    TPM2B_DIGEST digest;
    TPMT_SIG_SCHEME scheme;
    TPMT_TK_HASHCHECK ticket;
    TPMT_SIGNATURE *signature = NULL;
    TSS2_RC rc = in_digest(job, 1, &digest);
    THEN(in_sig_scheme(job, 2, &scheme));
    THEN(in_hashcheck_ticket(job, 3, &ticket));
    THEN(Esys_Sign(job->tpm->esys, job->in[0].number, SESSIONS(job), &digest, &scheme, &ticket, &signature));
    THEN(out_signature(job, signature));
    Esys_Free(signature);
    return rc;
}

/* in: key, digest, signature. out: ticket. */
static TSS2_RC run_verify_signature(struct job *job) {
    TPM2B_DIGEST digest;
    TPMT_SIGNATURE signature;
    TPMT_TK_VERIFIED *ticket = NULL;
    TSS2_RC rc = in_digest(job, 1, &digest);
    THEN(in_signature(job, 2, &signature));
    THEN(Esys_VerifySignature(job->tpm->esys, job->in[0].number, SESSIONS(job), &digest, &signature, &ticket));
    THEN(out_verified_ticket(job, ticket));
    Esys_Free(ticket);
    return rc;
}

/* in: key, credential, Name. out: credential blob, encrypted secret. */
static TSS2_RC run_make_credential(struct job *job) {
    TPM2B_DIGEST credential;
    TPM2B_NAME name;
    TPM2B_ID_OBJECT *blob = NULL;
    TPM2B_ENCRYPTED_SECRET *secret = NULL;
    TSS2_RC rc = in_digest(job, 1, &credential);
    THEN(in_name(job, 2, &name));
    THEN(Esys_MakeCredential(job->tpm->esys, job->in[0].number, SESSIONS(job), &credential, &name, &blob, &secret));
    THEN(out_bytes(job, blob->credential, blob->size));
    THEN(out_bytes(job, secret->secret, secret->size));
    Esys_Free(blob);
    Esys_Free(secret);
    explicit_bzero(&credential, sizeof credential);
    return rc;
}

/* in: activated object, key, credential blob, encrypted secret. out: certInfo. */
static TSS2_RC run_activate_credential(struct job *job) {
    TPM2B_ID_OBJECT blob;
    TPM2B_ENCRYPTED_SECRET secret;
    TPM2B_DIGEST *info = NULL;
    TSS2_RC rc = in_id_object(job, 2, &blob);
    THEN(in_encrypted_secret(job, 3, &secret));
    THEN(Esys_ActivateCredential(job->tpm->esys, job->in[0].number, job->in[1].number, SESSIONS(job), &blob, &secret, &info));
    THEN(out_bytes(job, info->buffer, info->size));
    if (info != NULL) explicit_bzero(info, sizeof *info);
    Esys_Free(info);
    return rc;
}

const struct command proof_commands[] = {
    {"Quote", "nbbb", run_quote},
    {"Certify", "nnbb", run_certify},
    {"CertifyCreation", "nnbbbb", run_certify_creation},
    {"NV_Certify", "nnnbbnn", run_nv_certify},
    {"GetTime", "nnbb", run_get_time},
    {"Sign", "nbbb", run_sign},
    {"VerifySignature", "nbb", run_verify_signature},
    {"MakeCredential", "nbb", run_make_credential},
    {"ActivateCredential", "nnbb", run_activate_credential},
    {NULL, NULL, NULL},
};
