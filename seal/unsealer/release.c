#include "release.h"

#include <openssl/evp.h>
#include <stdbool.h>
#include <string.h>
#include <tss2/tss2_mu.h>
#include <tss2/tss2_sys.h>

#include "standby.h"

/* A PCR outside the selection may move between PolicyPCR and Unseal; more often than this is not an accident. */
#define RACES_MAX 8

/* A format-one code without its parameter, handle or session number. */
static TSS2_RC base_code(TSS2_RC rc)
{
    return (rc & TPM2_RC_FMT1) != 0 ? rc & (TPM2_RC_FMT1 | 0x3f) : rc;
}

/* The TPM's own words, through the kernel's resource manager or not; anything else says that it was not reached. */
static bool is_tpm_answer(TSS2_RC rc)
{
    const TSS2_RC layer = rc & TSS2_RC_LAYER_MASK;

    return layer == TSS2_TPM_RC_LAYER || layer == TSS2_RESMGR_TPM_RC_LAYER;
}

static TSS2_RC approval_digest(const struct approval *approval, TPM2B_DIGEST *ret)
{
    uint8_t message[32 + 64];
    unsigned length = 0;
    const size_t size = (size_t)approval->approved.size + approval->policy_ref.size;

    if (size > sizeof message)
        return TSS2_ESYS_RC_BAD_VALUE;
    memcpy(message, approval->approved.buffer, approval->approved.size);
    memcpy(message + approval->approved.size, approval->policy_ref.buffer, approval->policy_ref.size);
    if (EVP_Digest(message, size, ret->buffer, &length, EVP_sha256(), NULL) != 1)
        return TSS2_ESYS_RC_GENERAL_FAILURE;
    ret->size = (UINT16)length;
    return TSS2_RC_SUCCESS;
}

/* In the owner hierarchy: PolicyAuthorize refuses a ticket of the null hierarchy. */
static TSS2_RC verify_approval(ESYS_CONTEXT *esys, const struct approval *approval, TPMT_TK_VERIFIED *ret, const char **ret_command)
{
    ESYS_TR key = ESYS_TR_NONE;
    TPM2B_DIGEST digest = { 0 };
    TPMT_TK_VERIFIED *ticket = NULL;
    TSS2_RC rc = approval_digest(approval, &digest);

    *ret_command = "TPM2_LoadExternal";
    if (rc == TSS2_RC_SUCCESS)
        rc = Esys_LoadExternal(esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, NULL, &approval->key, ESYS_TR_RH_OWNER, &key);
    if (rc != TSS2_RC_SUCCESS)
        return rc;
    *ret_command = "TPM2_VerifySignature";
    rc = Esys_VerifySignature(esys, key, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &digest, &approval->signature, &ticket);
    (void)Esys_FlushContext(esys, key);
    if (rc == TSS2_RC_SUCCESS)
        *ret = *ticket;
    Esys_Free(ticket);
    return rc;
}

int verify_approvals(ESYS_CONTEXT *esys, const struct request *request, struct tickets *ret, struct answer *answer)
{
    const char *command;
    TSS2_RC rc = verify_approval(esys, &request->root, &ret->root, &command);

    if (rc == TSS2_RC_SUCCESS)
        rc = verify_approval(esys, &request->release, &ret->release, &command);
    if (rc == TSS2_RC_SUCCESS)
        return 0;
    if (base_code(rc) == TPM2_RC_SIGNATURE)
        answer_refused(answer, command, rc);
    else
        answer_failed(answer, command, rc, NULL);
    return -1;
}

static TSS2_RC open_session(ESYS_CONTEXT *esys, ESYS_TR salt_key, ESYS_TR *ret)
{
    const TPMT_SYM_DEF encryption = { .algorithm = TPM2_ALG_AES, .keyBits.aes = 128, .mode.aes = TPM2_ALG_CFB };
    TSS2_RC rc = Esys_StartAuthSession(esys, salt_key, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, NULL,
                                       TPM2_SE_POLICY, &encryption, TPM2_ALG_SHA256, ret);

    if (rc != TSS2_RC_SUCCESS)
        return rc;
    rc = Esys_TRSess_SetAttributes(esys, *ret, TPMA_SESSION_CONTINUESESSION | TPMA_SESSION_ENCRYPT, 0xff);
    if (rc != TSS2_RC_SUCCESS)
        (void)Esys_FlushContext(esys, *ret);
    return rc;
}

static TSS2_RC authorize(ESYS_CONTEXT *esys, ESYS_TR session, const struct approval *approval, const TPMT_TK_VERIFIED *ticket)
{
    uint8_t area[sizeof(TPMT_PUBLIC)];
    TPM2B_NAME name = { .size = 2 + 32, .name = { 0, TPM2_ALG_SHA256 } };
    size_t length = 0;

    TSS2_RC rc = Tss2_MU_TPMT_PUBLIC_Marshal(&approval->key.publicArea, area, sizeof area, &length);
    if (rc != TSS2_RC_SUCCESS)
        return rc;
    if (EVP_Digest(area, length, name.name + 2, NULL, EVP_sha256(), NULL) != 1)
        return TSS2_ESYS_RC_GENERAL_FAILURE;
    return Esys_PolicyAuthorize(esys, session, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &approval->approved, &approval->policy_ref,
                                &name, ticket);
}

/* What the steps of one policy session work on. */
struct policy {
    ESYS_CONTEXT *esys;
    const struct request *request;
    const struct tickets *tickets;
    ESYS_TR epoch;    /* the counter; ESYS_TR_NONE when it cannot be opened */
    TSS2_RC no_epoch; /* and why */
    ESYS_TR session;
    struct word *word;
    bool expect;      /* name the expected PCR digest, so that a changed measurement shows at PolicyPCR and nowhere else */
};

static TSS2_RC measured_as_expected(const struct policy *policy)
{
    const TPM2B_DIGEST actual = { 0 };

    return Esys_PolicyPCR(policy->esys, policy->session, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                          policy->expect ? &policy->request->pcr_digest : &actual, &policy->request->pcrs);
}

/* The counter may be read with its own empty password. */
static TSS2_RC epoch_within(const struct policy *policy, const TPM2B_OPERAND *limit)
{
    if (policy->epoch == ESYS_TR_NONE)
        return policy->no_epoch;
    return Esys_PolicyNV(policy->esys, policy->epoch, policy->epoch, policy->session, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE,
                         limit, 0, TPM2_EO_UNSIGNED_LE);
}

static TSS2_RC epoch_of_release(const struct policy *policy)
{
    return epoch_within(policy, &policy->request->release_limit);
}

static TSS2_RC only_unseal(const struct policy *policy)
{
    return Esys_PolicyCommandCode(policy->esys, policy->session, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, TPM2_CC_Unseal);
}

static TSS2_RC approved_by_release_key(const struct policy *policy)
{
    return authorize(policy->esys, policy->session, &policy->request->release, &policy->tickets->release);
}

static TSS2_RC epoch_of_delegation(const struct policy *policy)
{
    return epoch_within(policy, &policy->request->delegation_limit);
}

static TSS2_RC approved_by_root(const struct policy *policy)
{
    return authorize(policy->esys, policy->session, &policy->request->root, &policy->tickets->root);
}

/* The order is part of the policy's digest: see ../FORMATS.md, section 3. */
static const struct {
    const char *command;
    TSS2_RC (*take)(const struct policy *policy);
    bool of_epoch;
} STEPS[] = {
    { "TPM2_PolicyPCR", measured_as_expected, false },
    { "TPM2_PolicyNV", epoch_of_release, true },
    { "TPM2_PolicyCommandCode", only_unseal, false },
    { "TPM2_PolicyAuthorize", approved_by_release_key, false },
    { "TPM2_PolicyNV", epoch_of_delegation, true },
    { "TPM2_PolicyAuthorize", approved_by_root, false },
};

/* The answer to the first step that the TPM refuses. Without expect the others are taken all the same: the TPM decides at Unseal. */
static struct command_answer take_steps(const struct policy *policy)
{
    struct command_answer refusal = { NULL, TSS2_RC_SUCCESS };

    for (size_t i = 0; i < sizeof STEPS / sizeof STEPS[0] && (refusal.rc == TSS2_RC_SUCCESS || !policy->expect); i++) {
        const bool unopened = STEPS[i].of_epoch && policy->epoch == ESYS_TR_NONE;
        TSS2_RC rc = STEPS[i].take(policy);
        if (rc != TSS2_RC_SUCCESS && refusal.rc == TSS2_RC_SUCCESS)
            refusal = (struct command_answer){ unopened ? "TPM2_NV_ReadPublic" : STEPS[i].command, rc };
    }
    return refusal;
}

struct attempt {
    TSS2_RC session;               /* StartAuthSession */
    struct command_answer refusal; /* first refused step */
    bool unwanted;                 /* the word did not come */
    bool asked;
    TSS2_RC unseal; /* TPM2_Unseal, when it was asked */
};

/* libtss2 keeps the last response, here with the key in it, in a buffer of its own. */
static void wipe_response(ESYS_CONTEXT *esys)
{
    TSS2_SYS_CONTEXT *sys = NULL;
    const uint8_t *response = NULL;
    size_t size = 0;

    if (Esys_GetSysContext(esys, &sys) == TSS2_RC_SUCCESS && Tss2_Sys_GetRpBuffer(sys, &size, &response) == TSS2_RC_SUCCESS)
        explicit_bzero((uint8_t *)response, size);
}

/* Waited for once. */
static bool has_word(struct word *word, unsigned sinks)
{
    if (word->sinks != NULL)
        word->given = receive_word(sinks, word->sinks);
    word->sinks = NULL;
    return word->given;
}

static struct attempt attempt_once(struct policy *policy, ESYS_TR salt_key, ESYS_TR object, TPM2B_SENSITIVE_DATA **ret)
{
    struct attempt attempt = { .session = open_session(policy->esys, salt_key, &policy->session) };

    if (attempt.session != TSS2_RC_SUCCESS)
        return attempt;
    attempt.refusal = take_steps(policy);
    attempt.asked = !policy->expect || attempt.refusal.rc == TSS2_RC_SUCCESS;
    attempt.unwanted = attempt.asked && !has_word(policy->word, policy->request->sinks);
    if (attempt.asked && !attempt.unwanted) {
        attempt.unseal = Esys_Unseal(policy->esys, object, policy->session, ESYS_TR_NONE, ESYS_TR_NONE, ret);
        wipe_response(policy->esys);
    }
    (void)Esys_FlushContext(policy->esys, policy->session);
    return attempt;
}

static bool raced(const struct attempt *attempt)
{
    return attempt->refusal.rc == TPM2_RC_PCR_CHANGED || (attempt->asked && attempt->unseal == TPM2_RC_PCR_CHANGED);
}

static struct attempt attempt_with_retries(struct policy *policy, ESYS_TR salt_key, ESYS_TR object, TPM2B_SENSITIVE_DATA **ret)
{
    struct attempt attempt = attempt_once(policy, salt_key, object, ret);

    for (int races = 1; races < RACES_MAX && raced(&attempt); races++)
        attempt = attempt_once(policy, salt_key, object, ret);
    return attempt;
}

static int unseal_under(struct policy *policy, ESYS_TR salt_key, ESYS_TR object, TPM2B_SENSITIVE_DATA **ret, struct answer *answer)
{
    struct attempt attempt = attempt_with_retries(policy, salt_key, object, ret);

    if (attempt.session == TSS2_RC_SUCCESS && attempt.asked && !attempt.unwanted && attempt.unseal == TSS2_RC_SUCCESS)
        return 0;
    if (attempt.session == TSS2_RC_SUCCESS && !attempt.asked) {
        answer_refused(answer, attempt.refusal.command, attempt.refusal.rc);
        policy->expect = false;
        attempt = attempt_with_retries(policy, salt_key, object, ret);
    }
    if (attempt.session != TSS2_RC_SUCCESS)
        answer_failed(answer, "TPM2_StartAuthSession", attempt.session, NULL);
    else if (attempt.unwanted)
        answer_failed(answer, "wait", 0, "no word, or not with its sinks");
    else if (!is_tpm_answer(attempt.unseal))
        answer_failed(answer, "TPM2_Unseal", attempt.unseal, NULL);
    else if (attempt.unseal != TSS2_RC_SUCCESS)
        answer_refused(answer, "TPM2_Unseal", attempt.unseal);
    else /* the approved policy holds although the expected digest did not: the request contradicts itself */
        answer_failed(answer, "request", 0, "expected PCR digest is not of the approved policy");
    return -1;
}

int unseal(ESYS_CONTEXT *esys, const struct request *request, const struct tickets *tickets, struct word *word, ESYS_TR salt_key,
           ESYS_TR object, TPM2B_SENSITIVE_DATA **ret, struct answer *answer)
{
    struct policy policy = {
        .esys = esys, .request = request, .tickets = tickets, .epoch = ESYS_TR_NONE, .word = word, .expect = true
    };

    policy.no_epoch = Esys_TR_FromTPMPublic(esys, request->epoch_index, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &policy.epoch);
    int refused = unseal_under(&policy, salt_key, object, ret, answer);
    if (policy.epoch != ESYS_TR_NONE)
        (void)Esys_TR_Close(esys, &policy.epoch);
    return refused;
}
