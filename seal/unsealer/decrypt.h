/* The secret of a request, under the key that the TPM released: see ../FORMATS.md, section 6. */
#ifndef IRONCLAW_UNSEALER_DECRYPT_H
#define IRONCLAW_UNSEALER_DECRYPT_H

#include "request.h"
#include "secret.h"

/*
 * Decrypts with secret->key into secret->padded: u16 length | secret | zeros. Returns the length, or 0 when the ciphertext was not
 * made with this key, nonce and label, or is no padded secret; then nothing of it is left.
 */
size_t decrypt_secret(const struct request *request, struct secret *secret);

#endif
