/* The unsealer's request: see ../FORMATS.md, section 8. */
#ifndef IRONCLAW_UNSEALER_REQUEST_H
#define IRONCLAW_UNSEALER_REQUEST_H

#include <stddef.h>
#include <stdint.h>
#include <tss2/tss2_tpm2_types.h>

#define REQUEST_MAX 49152
#define SINKS_MAX 16
#define NONCE_SIZE 12
#define TAG_SIZE 16
#define PADDED_MIN 64
#define PADDED_MAX 32768

/* A digest that a key approved for TPM2_PolicyAuthorize, and that key. */
struct approval {
    TPM2B_PUBLIC key;
    TPM2B_NONCE policy_ref;
    TPM2B_DIGEST approved;
    TPMT_SIGNATURE signature;
};

/* Part of the request's own bytes, not a copy. */
struct bytes {
    const uint8_t *at;
    size_t length;
};

struct request {
    TPM2B_NAME ek_name;
    TPM2_HANDLE ek_handle;
    TPM2B_PUBLIC object;
    TPM2B_PRIVATE imported;
    struct bytes nonce;
    struct bytes label;
    struct bytes ciphertext; /* the tag at its end */
    TPM2B_DIGEST pcr_digest;
    TPML_PCR_SELECTION pcrs;
    TPM2_HANDLE epoch_index;
    TPM2B_OPERAND release_limit;
    TPM2B_OPERAND delegation_limit;
    struct approval release;
    struct approval root;
    unsigned sinks;
};

/* Returns NULL, or the name of the first field that is not as the format says. The result refers to the bytes given. */
const char *parse_request(const uint8_t *bytes, size_t length, struct request *ret);

#endif
