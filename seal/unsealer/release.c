#include "release.h"

#include <openssl/evp.h>
#include <stdbool.h>
#include <string.h>
#include <tss2/tss2_mu.h>

/* A PCR outside the selection may move between PolicyPCR and Unseal; more often than this is not an accident. */
#define RACES_MAX 8

/* A format-one code without its parameter, handle or session number. */
static TSS2_RC base_code(TSS2_RC rc)
{
    return (rc & TPM2_RC_FMT1) != 0 ? rc & (TPM2_RC_FMT1 | 0x3f) : rc;
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

/* One step of the policy; the first that is refused is remembered. */
struct steps {
    const char *command;
    TSS2_RC rc;
};

static bool step(struct steps *steps, const char *command, TSS2_RC rc)
{
    if (rc != TSS2_RC_SUCCESS && steps->rc == TSS2_RC_SUCCESS)
        *steps = (struct steps){ command, rc };
    return rc == TSS2_RC_SUCCESS;
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

/*
 * All steps in order, each attempted even after a refusal: the TPM decides at Unseal, not this program.
 * With the expected digest a changed measurement shows at PolicyPCR; without it the TPM takes the PCRs as they are.
 */
static struct steps run_policy(ESYS_CONTEXT *esys, const struct request *request, const struct tickets *tickets, ESYS_TR session,
                               bool expect)
{
    struct steps steps = { NULL, TSS2_RC_SUCCESS };
    const TPM2B_DIGEST actual = { 0 };

    if (!step(&steps, "TPM2_PolicyPCR",
              Esys_PolicyPCR(esys, session, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, expect ? &request->pcr_digest : &actual,
                             &request->pcrs)) &&
        expect)
        return steps; /* the next session runs them all */
    (void)step(&steps, "TPM2_PolicyCommandCode",
               Esys_PolicyCommandCode(esys, session, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, TPM2_CC_Unseal));
    (void)step(&steps, "TPM2_PolicyAuthorize", authorize(esys, session, &request->release, &tickets->release));
    (void)step(&steps, "TPM2_PolicyAuthorize", authorize(esys, session, &request->root, &tickets->root));
    return steps;
}

struct attempt {
    struct steps policy;  /* first refused step */
    TSS2_RC session;      /* StartAuthSession */
    TSS2_RC unseal;       /* TPM2_Unseal, when it was asked */
    bool asked;
};

static struct attempt attempt_once(ESYS_CONTEXT *esys, const struct request *request, const struct tickets *tickets, ESYS_TR salt_key,
                                   ESYS_TR object, bool expect, TPM2B_SENSITIVE_DATA **ret)
{
    struct attempt attempt = { .policy = { NULL, TSS2_RC_SUCCESS } };
    ESYS_TR session = ESYS_TR_NONE;

    attempt.session = open_session(esys, salt_key, &session);
    if (attempt.session != TSS2_RC_SUCCESS)
        return attempt;
    attempt.policy = run_policy(esys, request, tickets, session, expect);
    attempt.asked = !expect || attempt.policy.rc == TSS2_RC_SUCCESS;
    if (attempt.asked)
        attempt.unseal = Esys_Unseal(esys, object, session, ESYS_TR_NONE, ESYS_TR_NONE, ret);
    (void)Esys_FlushContext(esys, session);
    return attempt;
}

static bool raced(const struct attempt *attempt)
{
    return attempt->policy.rc == TPM2_RC_PCR_CHANGED || (attempt->asked && attempt->unseal == TPM2_RC_PCR_CHANGED);
}

static struct attempt attempt_with_retries(ESYS_CONTEXT *esys, const struct request *request, const struct tickets *tickets,
                                           ESYS_TR salt_key, ESYS_TR object, bool expect, TPM2B_SENSITIVE_DATA **ret)
{
    struct attempt attempt = attempt_once(esys, request, tickets, salt_key, object, expect, ret);

    for (int races = 1; races < RACES_MAX && raced(&attempt); races++)
        attempt = attempt_once(esys, request, tickets, salt_key, object, expect, ret);
    return attempt;
}

int unseal(ESYS_CONTEXT *esys, const struct request *request, const struct tickets *tickets, ESYS_TR salt_key, ESYS_TR object,
           TPM2B_SENSITIVE_DATA **ret, struct answer *answer)
{
    struct attempt attempt = attempt_with_retries(esys, request, tickets, salt_key, object, true, ret);

    if (attempt.session == TSS2_RC_SUCCESS && attempt.asked && attempt.unseal == TSS2_RC_SUCCESS)
        return 0;
    if (attempt.session == TSS2_RC_SUCCESS && !attempt.asked) {
        answer_refused(answer, attempt.policy.command, attempt.policy.rc);
        attempt = attempt_with_retries(esys, request, tickets, salt_key, object, false, ret);
    }
    if (attempt.session != TSS2_RC_SUCCESS)
        answer_failed(answer, "TPM2_StartAuthSession", attempt.session, NULL);
    else if (attempt.unseal != TSS2_RC_SUCCESS)
        answer_refused(answer, "TPM2_Unseal", attempt.unseal);
    else /* the approved policy holds although the expected digest did not: the request contradicts itself */
        answer_failed(answer, "request", 0, "expected PCR digest is not of the approved policy");
    return -1;
}
