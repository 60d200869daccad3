/* The unsealer's request: see ../FORMATS.md, section 7. */
#ifndef IRONCLAW_UNSEALER_REQUEST_H
#define IRONCLAW_UNSEALER_REQUEST_H

#include <stddef.h>
#include <stdint.h>
#include <tss2/tss2_tpm2_types.h>

#define REQUEST_MAX 16384
#define SINKS_MAX 16

/* A digest that a key approved for TPM2_PolicyAuthorize, and that key. */
struct approval {
    TPM2B_PUBLIC key;
    TPM2B_NONCE policy_ref;
    TPM2B_DIGEST approved;
    TPMT_SIGNATURE signature;
};

struct request {
    TPM2B_NAME ek_name;
    TPM2_HANDLE ek_handle;
    TPM2B_PUBLIC object;
    TPM2B_PRIVATE duplicate;
    TPM2B_ENCRYPTED_SECRET seed;
    TPM2B_DIGEST pcr_digest;
    TPML_PCR_SELECTION pcrs;
    struct approval release;
    struct approval root;
    unsigned sinks;
};

/* Returns NULL, or the name of the first field that is not as the format says. */
const char *parse_request(const uint8_t *bytes, size_t length, struct request *ret);

#endif
