/* PCRs, quotes, NV indices, capabilities and random numbers. */
#include "tpm2_tss.h"

/* in: selection. out: updateCounter, the selection that was read, then its digests (at most 8; the caller asks again for the rest). */
static TSS2_RC run_pcr_read(struct job *job) {
    TPML_PCR_SELECTION asked;
    TPML_PCR_SELECTION *read = NULL;
    TPML_DIGEST *values = NULL;
    UINT32 counter = 0;
    TSS2_RC rc = in_pcr_selection(job, 0, &asked);
    THEN(Esys_PCR_Read(job->tpm->esys, SESSIONS(job), &asked, &counter, &read, &values));
    THEN(out_number(job, counter));
    THEN(out_pcr_selection(job, read));
    for (UINT32 index = 0; rc == TSS2_RC_SUCCESS && index < values->count; index++) {
        rc = out_bytes(job, values->digests[index].buffer, values->digests[index].size);
    }
    Esys_Free(read);
    Esys_Free(values);
    return rc;
}

/* in: PCR, digests. */
static TSS2_RC run_pcr_extend(struct job *job) {
    TPML_DIGEST_VALUES digests;
    TSS2_RC rc = in_digest_values(job, 1, &digests);
    THEN(Esys_PCR_Extend(job->tpm->esys, job->in[0].number, SESSIONS(job), &digests));
    return rc;
}

/* in: key, qualifyingData, scheme, selection. out: TPMS_ATTEST exactly as signed, signature. */
static TSS2_RC run_quote(struct job *job) {
    TPM2B_DATA qualifying;
    TPMT_SIG_SCHEME scheme;
    TPML_PCR_SELECTION selection;
    TPM2B_ATTEST *quoted = NULL;
    TPMT_SIGNATURE *signature = NULL;
    TSS2_RC rc = in_data(job, 1, &qualifying);
    THEN(in_sig_scheme(job, 2, &scheme));
    THEN(in_pcr_selection(job, 3, &selection));
    THEN(Esys_Quote(job->tpm->esys, job->in[0].number, SESSIONS(job), &qualifying, &scheme, &selection, &quoted, &signature));
    THEN(out_bytes(job, quoted->attestationData, quoted->size));
    THEN(out_signature(job, signature));
    Esys_Free(quoted);
    Esys_Free(signature);
    return rc;
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

/* in: capability, property, count. out: moreData, TPMS_CAPABILITY_DATA. */
static TSS2_RC run_get_capability(struct job *job) {
    TPMI_YES_NO more = 0;
    TPMS_CAPABILITY_DATA *data = NULL;
    TSS2_RC rc = Esys_GetCapability(job->tpm->esys, SESSIONS(job), job->in[0].number, job->in[1].number, job->in[2].number, &more, &data);
    THEN(out_number(job, more));
    THEN(out_capability(job, data));
    Esys_Free(data);
    return rc;
}

/* in: count. out: random bytes, possibly fewer. */
static TSS2_RC run_get_random(struct job *job) {
    TPM2B_DIGEST *random = NULL;
    TSS2_RC rc = Esys_GetRandom(job->tpm->esys, SESSIONS(job), (UINT16)job->in[0].number, &random);
    THEN(out_bytes(job, random->buffer, random->size));
    Esys_Free(random);
    return rc;
}

const struct command data_commands[] = {
    {"PCR_Read", "b", run_pcr_read},
    {"PCR_Extend", "nb", run_pcr_extend},
    {"Quote", "nbbb", run_quote},
    {"NV_ReadPublic", "n", run_nv_read_public},
    {"NV_Read", "nnnn", run_nv_read},
    {"GetCapability", "nnn", run_get_capability},
    {"GetRandom", "n", run_get_random},
    {NULL, NULL, NULL},
};
