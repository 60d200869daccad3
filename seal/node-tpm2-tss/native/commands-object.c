/* Keys and other objects: making, loading, reading, moving and keeping them. */
#include <string.h>

#include "tpm2_tss.h"

/* What Create and CreatePrimary have in common. */
struct creation_inputs {
    TPM2B_SENSITIVE_CREATE sensitive;
    TPM2B_PUBLIC template;
    TPM2B_DATA outside_info;
    TPML_PCR_SELECTION pcrs;
};
struct creation_outputs {
    TPM2B_PUBLIC *public;
    TPM2B_CREATION_DATA *data;
    TPM2B_DIGEST *hash;
    TPMT_TK_CREATION *ticket;
};

/* in, from 1: template, userAuth, data, outsideInfo, creationPCR. Holds an authValue: wipe it. */
static TSS2_RC in_creation(const struct job *job, struct creation_inputs *to) {
    memset(to, 0, sizeof *to);
    TSS2_RC rc = in_public(job, 1, &to->template);
    THEN(in_digest(job, 2, &to->sensitive.sensitive.userAuth));
    THEN(in_sensitive_data(job, 3, &to->sensitive.sensitive.data));
    THEN(in_data(job, 4, &to->outside_info));
    THEN(in_pcr_selection(job, 5, &to->pcrs));
    return rc;
}

/* out: public area, TPMS_CREATION_DATA, creationHash, creationTicket. */
static TSS2_RC out_creation(struct job *job, const struct creation_outputs *from) {
    TSS2_RC rc = out_public(job, &from->public->publicArea);
    THEN(out_creation_data(job, &from->data->creationData));
    THEN(out_bytes(job, from->hash->buffer, from->hash->size));
    THEN(out_creation_ticket(job, from->ticket));
    return rc;
}

static void free_creation(struct creation_inputs *inputs, struct creation_outputs *outputs) {
    explicit_bzero(&inputs->sensitive, sizeof inputs->sensitive);
    Esys_Free(outputs->public);
    Esys_Free(outputs->data);
    Esys_Free(outputs->hash);
    Esys_Free(outputs->ticket);
}

/* in: hierarchy, creation. out: handle, Name, creation. */
static TSS2_RC run_create_primary(struct job *job) {
    struct creation_inputs in;
    struct creation_outputs out = {0};
    ESYS_TR object = ESYS_TR_NONE;
    TSS2_RC rc = in_creation(job, &in);
    THEN(Esys_CreatePrimary(job->tpm->esys, job->in[0].number, SESSIONS(job), &in.sensitive, &in.template, &in.outside_info, &in.pcrs,
                            &object, &out.public, &out.data, &out.hash, &out.ticket));
    THEN(out_number(job, object));
    THEN(out_name_of(job, object));
    THEN(out_creation(job, &out));
    free_creation(&in, &out);
    return rc;
}

/* in: parent, creation. out: private, creation. */
static TSS2_RC run_create(struct job *job) {
    struct creation_inputs in;
    struct creation_outputs out = {0};
    TPM2B_PRIVATE *private = NULL;
    TSS2_RC rc = in_creation(job, &in);
    THEN(Esys_Create(job->tpm->esys, job->in[0].number, SESSIONS(job), &in.sensitive, &in.template, &in.outside_info, &in.pcrs,
                     &private, &out.public, &out.data, &out.hash, &out.ticket));
    THEN(out_bytes(job, private->buffer, private->size));
    THEN(out_creation(job, &out));
    Esys_Free(private);
    free_creation(&in, &out);
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

/* in: public area, hierarchy, sensitive area or nothing. out: handle, Name. */
static TSS2_RC run_load_external(struct job *job) {
    TPM2B_PUBLIC public;
    TPM2B_SENSITIVE sensitive;
    ESYS_TR object = ESYS_TR_NONE;
    const bool whole = job->in[2].size > 0;
    TSS2_RC rc = in_public(job, 0, &public);
    if (whole) THEN(in_sensitive(job, 2, &sensitive));
    THEN(Esys_LoadExternal(job->tpm->esys, SESSIONS(job), whole ? &sensitive : NULL, &public, job->in[1].number, &object));
    explicit_bzero(&sensitive, sizeof sensitive);
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

/* in: parent, public area, duplicate, encrypted seed, encryptionKey, symmetricAlg. out: private. */
static TSS2_RC run_import(struct job *job) {
    TPM2B_PUBLIC public;
    TPM2B_PRIVATE duplicate;
    TPM2B_ENCRYPTED_SECRET seed;
    TPM2B_DATA inner_key;
    TPMT_SYM_DEF_OBJECT inner;
    TPM2B_PRIVATE *private = NULL;
    TSS2_RC rc = in_public(job, 1, &public);
    THEN(in_private(job, 2, &duplicate));
    THEN(in_encrypted_secret(job, 3, &seed));
    THEN(in_data(job, 4, &inner_key));
    THEN(in_sym_def_object(job, 5, &inner));
    THEN(Esys_Import(job->tpm->esys, job->in[0].number, SESSIONS(job), &inner_key, &public, &duplicate, &seed, &inner, &private));
    THEN(out_bytes(job, private->buffer, private->size));
    explicit_bzero(&inner_key, sizeof inner_key);
    Esys_Free(private);
    return rc;
}

/* in: object, newParent, encryptionKeyIn, symmetricAlg. out: encryptionKeyOut, duplicate, encrypted seed. */
static TSS2_RC run_duplicate(struct job *job) {
    TPM2B_DATA key_in;
    TPMT_SYM_DEF_OBJECT inner;
    TPM2B_DATA *key_out = NULL;
    TPM2B_PRIVATE *duplicate = NULL;
    TPM2B_ENCRYPTED_SECRET *seed = NULL;
    TSS2_RC rc = in_data(job, 2, &key_in);
    THEN(in_sym_def_object(job, 3, &inner));
    THEN(Esys_Duplicate(job->tpm->esys, job->in[0].number, job->in[1].number, SESSIONS(job), &key_in, &inner, &key_out, &duplicate, &seed));
    THEN(out_bytes(job, key_out->buffer, key_out->size));
    THEN(out_bytes(job, duplicate->buffer, duplicate->size));
    THEN(out_bytes(job, seed->secret, seed->size));
    explicit_bzero(&key_in, sizeof key_in);
    if (key_out != NULL) explicit_bzero(key_out, sizeof *key_out);
    Esys_Free(key_out);
    Esys_Free(duplicate);
    Esys_Free(seed);
    return rc;
}

/* in: object, parent, newAuth. out: private. */
static TSS2_RC run_object_change_auth(struct job *job) {
    TPM2B_AUTH auth;
    TPM2B_PRIVATE *private = NULL;
    TSS2_RC rc = in_digest(job, 2, &auth);
    THEN(Esys_ObjectChangeAuth(job->tpm->esys, job->in[0].number, job->in[1].number, SESSIONS(job), &auth, &private));
    THEN(out_bytes(job, private->buffer, private->size));
    explicit_bzero(&auth, sizeof auth);
    Esys_Free(private);
    return rc;
}

/* in: authority, object, persistent handle. out: handle and Name of the persistent object; nothing when it was evicted. */
static TSS2_RC run_evict_control(struct job *job) {
    ESYS_TR object = ESYS_TR_NONE;
    TSS2_RC rc = Esys_EvictControl(job->tpm->esys, job->in[0].number, job->in[1].number, SESSIONS(job), job->in[2].number, &object);
    if (object == ESYS_TR_NONE) return rc;
    THEN(out_number(job, object));
    THEN(out_name_of(job, object));
    return rc;
}

const struct command object_commands[] = {
    {"CreatePrimary", "nbbbbb", run_create_primary},
    {"Create", "nbbbbb", run_create},
    {"Load", "nbb", run_load},
    {"LoadExternal", "bnb", run_load_external},
    {"ReadPublic", "n", run_read_public},
    {"Import", "nbbbbb", run_import},
    {"Duplicate", "nnbb", run_duplicate},
    {"ObjectChangeAuth", "nnb", run_object_change_auth},
    {"EvictControl", "nnn", run_evict_control},
    {NULL, NULL, NULL},
};
