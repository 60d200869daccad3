/* Commands of the hierarchies: their authValues, clearing, and the dictionary-attack lockout. */
#include <string.h>

#include "tpm2_tss.h"

/* in: hierarchy, newAuth. */
static TSS2_RC run_hierarchy_change_auth(struct job *job) {
    TPM2B_AUTH auth;
    TSS2_RC rc = in_digest(job, 1, &auth);
    THEN(Esys_HierarchyChangeAuth(job->tpm->esys, job->in[0].number, SESSIONS(job), &auth));
    THEN(Esys_TR_SetAuth(job->tpm->esys, job->in[0].number, &auth));
    explicit_bzero(&auth, sizeof auth);
    return rc;
}

/* in: authority. The TPM empties the authValues of these three hierarchies; ESYS has to be told. */
static TSS2_RC run_clear(struct job *job) {
    static const ESYS_TR emptied[] = {ESYS_TR_RH_OWNER, ESYS_TR_RH_ENDORSEMENT, ESYS_TR_RH_LOCKOUT};
    const TPM2B_AUTH empty = {.size = 0};
    TSS2_RC rc = Esys_Clear(job->tpm->esys, job->in[0].number, SESSIONS(job));
    for (size_t index = 0; index < sizeof emptied / sizeof emptied[0]; index++) {
        THEN(Esys_TR_SetAuth(job->tpm->esys, emptied[index], &empty));
    }
    return rc;
}

/* in: authority, disable. */
static TSS2_RC run_clear_control(struct job *job) {
    return Esys_ClearControl(job->tpm->esys, job->in[0].number, SESSIONS(job), job->in[1].number != 0 ? TPM2_YES : TPM2_NO);
}

static TSS2_RC run_dictionary_attack_lock_reset(struct job *job) {
    return Esys_DictionaryAttackLockReset(job->tpm->esys, ESYS_TR_RH_LOCKOUT, SESSIONS(job));
}

/* in: newMaxTries, newRecoveryTime, lockoutRecovery. */
static TSS2_RC run_dictionary_attack_parameters(struct job *job) {
    return Esys_DictionaryAttackParameters(job->tpm->esys, ESYS_TR_RH_LOCKOUT, SESSIONS(job), job->in[0].number, job->in[1].number,
                                           job->in[2].number);
}

const struct command hierarchy_commands[] = {
    {"HierarchyChangeAuth", "nb", run_hierarchy_change_auth},
    {"Clear", "n", run_clear},
    {"ClearControl", "nn", run_clear_control},
    {"DictionaryAttackLockReset", "", run_dictionary_attack_lock_reset},
    {"DictionaryAttackParameters", "nnn", run_dictionary_attack_parameters},
    {NULL, NULL, NULL},
};
