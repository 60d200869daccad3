/* The endorsement key as parent of the sealed object and as salt key of the policy session. */
#ifndef IRONCLAW_UNSEALER_EK_H
#define IRONCLAW_UNSEALER_EK_H

#include <stdbool.h>
#include <tss2/tss2_esys.h>

#include "answer.h"
#include "request.h"

struct ek {
    ESYS_TR handle;
    bool transient; /* made here, to be flushed */
    bool is_rsa;    /* L-1, else H-3 */
};

/* 0, or -1 with the reason in answer. "tpm replaced" when no key of this TPM has the Name. */
int open_ek(ESYS_CONTEXT *esys, const struct request *request, struct ek *ret, struct answer *answer);
void close_ek(ESYS_CONTEXT *esys, struct ek *ek);

/* Load of the imported object. 0 with the loaded object, or -1 with the reason in answer. */
int load_sealed(ESYS_CONTEXT *esys, const struct request *request, const struct ek *ek, ESYS_TR *ret, struct answer *answer);

#endif
