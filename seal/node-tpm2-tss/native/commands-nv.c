/* NV indices. NV_Certify is among the proofs. */
#include <string.h>

#include "tpm2_tss.h"

/* in: authHandle, authValue, TPMS_NV_PUBLIC. out: handle, Name. */
static TSS2_RC run_nv_define_space(struct job *job) {
    TPM2B_AUTH auth;
    TPM2B_NV_PUBLIC public;
    ESYS_TR index = ESYS_TR_NONE;
    TSS2_RC rc = in_digest(job, 1, &auth);
    THEN(in_nv_public(job, 2, &public));
    THEN(Esys_NV_DefineSpace(job->tpm->esys, job->in[0].number, SESSIONS(job), &auth, &public, &index));
    THEN(out_number(job, index));
    THEN(out_name_of(job, index));
    explicit_bzero(&auth, sizeof auth);
    return rc;
}

/* in: authHandle, index. ESYS forgets the index. */
static TSS2_RC run_nv_undefine_space(struct job *job) {
    return Esys_NV_UndefineSpace(job->tpm->esys, job->in[0].number, job->in[1].number, SESSIONS(job));
}

/* in: index. out: TPMS_NV_PUBLIC, Name. */
static TSS2_RC run_nv_read_public(struct job *job) {
    TPM2B_NV_PUBLIC *public = NULL;
    TPM2B_NAME *name = NULL;
    TSS2_RC rc = Esys_NV_ReadPublic(job->tpm->esys, job->in[0].number, SESSIONS(job), &public, &name);
    THEN(out_nv_public(job, &public->nvPublic));
    THEN(out_bytes(job, name->name, name->size));
    Esys_Free(public);
    Esys_Free(name);
    return rc;
}

/* in: authHandle, index, size, offset. out: data. */
static TSS2_RC run_nv_read(struct job *job) {
    TPM2B_MAX_NV_BUFFER *data = NULL;
    TSS2_RC rc = Esys_NV_Read(job->tpm->esys, job->in[0].number, job->in[1].number, SESSIONS(job), (UINT16)job->in[2].number,
                              (UINT16)job->in[3].number, &data);
    THEN(out_bytes(job, data->buffer, data->size));
    Esys_Free(data);
    return rc;
}

/* in: authHandle, index, data, offset. */
static TSS2_RC run_nv_write(struct job *job) {
    TPM2B_MAX_NV_BUFFER data;
    TSS2_RC rc = in_nv_buffer(job, 2, &data);
    THEN(Esys_NV_Write(job->tpm->esys, job->in[0].number, job->in[1].number, SESSIONS(job), &data, (UINT16)job->in[3].number));
    return rc;
}

/* in: authHandle, index. */
static TSS2_RC run_nv_increment(struct job *job) {
    return Esys_NV_Increment(job->tpm->esys, job->in[0].number, job->in[1].number, SESSIONS(job));
}

/* in: authHandle, index, data. */
static TSS2_RC run_nv_extend(struct job *job) {
    TPM2B_MAX_NV_BUFFER data;
    TSS2_RC rc = in_nv_buffer(job, 2, &data);
    THEN(Esys_NV_Extend(job->tpm->esys, job->in[0].number, job->in[1].number, SESSIONS(job), &data));
    return rc;
}

/* in: authHandle, index, high and low half of the bits. */
static TSS2_RC run_nv_set_bits(struct job *job) {
    const UINT64 bits = (UINT64)job->in[2].number << 32 | job->in[3].number;
    return Esys_NV_SetBits(job->tpm->esys, job->in[0].number, job->in[1].number, SESSIONS(job), bits);
}

const struct command nv_commands[] = {
    {"NV_DefineSpace", "nbb", run_nv_define_space},
    {"NV_UndefineSpace", "nn", run_nv_undefine_space},
    {"NV_ReadPublic", "n", run_nv_read_public},
    {"NV_Read", "nnnn", run_nv_read},
    {"NV_Write", "nnbn", run_nv_write},
    {"NV_Increment", "nn", run_nv_increment},
    {"NV_Extend", "nnb", run_nv_extend},
    {"NV_SetBits", "nnnn", run_nv_set_bits},
    {NULL, NULL, NULL},
};
