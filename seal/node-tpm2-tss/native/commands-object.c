/* Keys and other objects: making, loading, reading and using them. There is deliberately no Unseal: see README.md. */
#include <string.h>

#include "tpm2_tss.h"

/* in: hierarchy, template. out: handle, public area, Name. The object's authValue is empty. */
static TSS2_RC run_create_primary(struct job *job) {
    const TPM2B_SENSITIVE_CREATE sensitive = {.size = 0};
    const TPM2B_DATA outside_info = {.size = 0};
    const TPML_PCR_SELECTION creation_pcrs = {.count = 0};
    TPM2B_PUBLIC template;
    TPM2B_PUBLIC *made = NULL;
    TPM2B_CREATION_DATA *creation = NULL;
    TPM2B_DIGEST *creation_hash = NULL;
    TPMT_TK_CREATION *creation_ticket = NULL;
    ESYS_TR object = ESYS_TR_NONE;
    TSS2_RC rc = in_public(job, 1, &template);
    THEN(Esys_CreatePrimary(job->tpm->esys, job->in[0].number, SESSIONS(job), &sensitive, &template, &outside_info, &creation_pcrs,
                            &object, &made, &creation, &creation_hash, &creation_ticket));
    THEN(out_number(job, object));
    THEN(out_public(job, &made->publicArea));
    THEN(out_name_of(job, object));
    Esys_Free(made);
    Esys_Free(creation);
    Esys_Free(creation_hash);
    Esys_Free(creation_ticket);
    return rc;
}

/* in: parent, private, public area. out: handle, Name. */
static TSS2_RC run_load(struct job *job) {
    TPM2B_PRIVATE private;
    TPM2B_PUBLIC public;
    ESYS_TR object = ESYS_TR_NONE;
    TSS2_RC rc = in_private(job, 1, &private);
    THEN(in_public(job, 2, &public));
    THEN(Esys_Load(job->tpm->esys, job->in[0].number, SESSIONS(job), &private, &public, &object));
    THEN(out_number(job, object));
    THEN(out_name_of(job, object));
    return rc;
}

/* in: public area, hierarchy. out: handle, Name. Public part only: a private key has no business in this process. */
static TSS2_RC run_load_external(struct job *job) {
    TPM2B_PUBLIC public;
    ESYS_TR object = ESYS_TR_NONE;
    TSS2_RC rc = in_public(job, 0, &public);
    THEN(Esys_LoadExternal(job->tpm->esys, SESSIONS(job), NULL, &public, job->in[1].number, &object));
    THEN(out_number(job, object));
    THEN(out_name_of(job, object));
    return rc;
}

/* in: object. out: public area, Name, qualified Name. */
static TSS2_RC run_read_public(struct job *job) {
    TPM2B_PUBLIC *public = NULL;
    TPM2B_NAME *name = NULL;
    TPM2B_NAME *qualified = NULL;
    TSS2_RC rc = Esys_ReadPublic(job->tpm->esys, job->in[0].number, SESSIONS(job), &public, &name, &qualified);
    THEN(out_public(job, &public->publicArea));
    THEN(out_bytes(job, name->name, name->size));
    THEN(out_bytes(job, qualified->name, qualified->size));
    Esys_Free(public);
    Esys_Free(name);
    Esys_Free(qualified);
    return rc;
}

/* in: parent, public area, duplicate, encrypted seed. out: private. No inner wrapper. */
static TSS2_RC run_import(struct job *job) {
    const TPM2B_DATA no_inner_key = {.size = 0};
    const TPMT_SYM_DEF_OBJECT no_inner_wrapper = {.algorithm = TPM2_ALG_NULL};
    TPM2B_PUBLIC public;
    TPM2B_PRIVATE duplicate;
    TPM2B_ENCRYPTED_SECRET seed;
    TPM2B_PRIVATE *private = NULL;
    TSS2_RC rc = in_public(job, 1, &public);
    THEN(in_private(job, 2, &duplicate));
    THEN(in_encrypted_secret(job, 3, &seed));
    THEN(Esys_Import(job->tpm->esys, job->in[0].number, SESSIONS(job), &no_inner_key, &public, &duplicate, &seed, &no_inner_wrapper, &private));
    THEN(out_bytes(job, private->buffer, private->size));
    Esys_Free(private);
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

const struct command object_commands[] = {
    {"CreatePrimary", "nb", run_create_primary},
    {"Load", "nbb", run_load},
    {"LoadExternal", "bn", run_load_external},
    {"ReadPublic", "n", run_read_public},
    {"Import", "nbbb", run_import},
    {"MakeCredential", "nbb", run_make_credential},
    {"ActivateCredential", "nnbb", run_activate_credential},
    {"VerifySignature", "nbb", run_verify_signature},
    {NULL, NULL, NULL},
};
