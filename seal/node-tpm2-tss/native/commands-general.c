/* What concerns the whole TPM: start and stop, capabilities, random numbers, the clock. */
#include "tpm2_tss.h"

/* in: startupType. */
static TSS2_RC run_startup(struct job *job) {
    return Esys_Startup(job->tpm->esys, (TPM2_SU)job->in[0].number);
}

/* in: shutdownType. */
static TSS2_RC run_shutdown(struct job *job) {
    return Esys_Shutdown(job->tpm->esys, SESSIONS(job), (TPM2_SU)job->in[0].number);
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

/* out: TPMS_TIME_INFO. */
static TSS2_RC run_read_clock(struct job *job) {
    TPMS_TIME_INFO *now = NULL;
    TSS2_RC rc = Esys_ReadClock(job->tpm->esys, SESSIONS(job), &now);
    THEN(out_time_info(job, now));
    Esys_Free(now);
    return rc;
}

/* in: TPMT_PUBLIC_PARMS. */
static TSS2_RC run_test_parms(struct job *job) {
    TPMT_PUBLIC_PARMS parameters;
    TSS2_RC rc = in_public_parms(job, 0, &parameters);
    THEN(Esys_TestParms(job->tpm->esys, SESSIONS(job), &parameters));
    return rc;
}

const struct command general_commands[] = {
    {"Startup", "n", run_startup},
    {"Shutdown", "n", run_shutdown},
    {"GetCapability", "nnn", run_get_capability},
    {"GetRandom", "n", run_get_random},
    {"ReadClock", "", run_read_clock},
    {"TestParms", "b", run_test_parms},
    {NULL, NULL, NULL},
};
