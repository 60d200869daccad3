/* PCRs. */
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

/* in: PCR, the TPML_DIGEST_VALUES of each event one after the other. A command for each of them; none follows one that fails. */
static TSS2_RC run_pcr_extend(struct job *job) {
    const struct value *events = &job->in[1];
    TSS2_RC rc = TSS2_RC_SUCCESS;
    for (size_t offset = 0; rc == TSS2_RC_SUCCESS && offset < events->size;) {
        TPML_DIGEST_VALUES digests = {0};
        rc = Tss2_MU_TPML_DIGEST_VALUES_Unmarshal(events->bytes, events->size, &offset, &digests);
        THEN(Esys_PCR_Extend(job->tpm->esys, job->in[0].number, SESSIONS(job), &digests));
    }
    return rc;
}

/* in: PCR, event. out: TPML_DIGEST_VALUES, one for each active bank. */
static TSS2_RC run_pcr_event(struct job *job) {
    TPM2B_EVENT event;
    TPML_DIGEST_VALUES *digests = NULL;
    TSS2_RC rc = in_event(job, 1, &event);
    THEN(Esys_PCR_Event(job->tpm->esys, job->in[0].number, SESSIONS(job), &event, &digests));
    THEN(out_digest_values(job, digests));
    Esys_Free(digests);
    return rc;
}

/* in: PCR. */
static TSS2_RC run_pcr_reset(struct job *job) {
    return Esys_PCR_Reset(job->tpm->esys, job->in[0].number, SESSIONS(job));
}

const struct command pcr_commands[] = {
    {"PCR_Read", "b", run_pcr_read},
    {"PCR_Extend", "nb", run_pcr_extend},
    {"PCR_Event", "nb", run_pcr_event},
    {"PCR_Reset", "n", run_pcr_reset},
    {NULL, NULL, NULL},
};
