/* The policy session that releases the sealed data: steps, order, refusals and retries. */
#ifndef IRONCLAW_UNSEALER_RELEASE_H
#define IRONCLAW_UNSEALER_RELEASE_H

#include <stdbool.h>
#include <tss2/tss2_esys.h>

#include "answer.h"
#include "request.h"
#include "secret.h"

/* Proofs of the TPM that it has verified the two signatures; needed by TPM2_PolicyAuthorize. */
struct tickets {
    TPMT_TK_VERIFIED release;
    TPMT_TK_VERIFIED root;
};

/* 0, or -1 with the reason in answer: a signature that does not verify is a refusal by the TPM. */
int verify_approvals(ESYS_CONTEXT *esys, const struct request *request, struct tickets *ret, struct answer *answer);

/* Of whoever started this: the TPM may be asked for what it releases. */
struct word {
    struct sinks *sinks; /* that come with it; NULL when nobody is waited for, any more or at all */
    bool given;
};

/*
 * Asks the TPM for the data of object, once there is the word. 0 with the data, which the caller wipes and frees, or -1 with the TPM's own words in answer.
 * salt_key must be the EK, its Name compared: the session's encryption is only as good as that.
 */
int unseal(ESYS_CONTEXT *esys, const struct request *request, const struct tickets *tickets, struct word *word, ESYS_TR salt_key,
           ESYS_TR object, TPM2B_SENSITIVE_DATA **ret, struct answer *answer);

#endif
