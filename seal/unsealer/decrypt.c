#include "decrypt.h"

#include <openssl/evp.h>
#include <stdbool.h>
#include <string.h>

static bool open_gcm(EVP_CIPHER_CTX *gcm, const struct request *request, struct secret *secret)
{
    const int size = (int)(request->ciphertext.length - TAG_SIZE);
    uint8_t *tag = (uint8_t *)request->ciphertext.at + size; /* OpenSSL takes it as void *, and reads it */
    int length = 0, rest = 0;

    return EVP_DecryptInit_ex(gcm, EVP_aes_256_gcm(), NULL, secret->key, request->nonce.at) == 1 &&
           EVP_DecryptUpdate(gcm, NULL, &length, request->label.at, (int)request->label.length) == 1 &&
           EVP_DecryptUpdate(gcm, secret->padded, &length, request->ciphertext.at, size) == 1 && length == size &&
           EVP_CIPHER_CTX_ctrl(gcm, EVP_CTRL_GCM_SET_TAG, TAG_SIZE, tag) == 1 &&
           EVP_DecryptFinal_ex(gcm, secret->padded + size, &rest) == 1 && rest == 0;
}

size_t decrypt_secret(const struct request *request, struct secret *secret)
{
    EVP_CIPHER_CTX *gcm = EVP_CIPHER_CTX_new();
    const bool opened = gcm != NULL && open_gcm(gcm, request, secret);

    EVP_CIPHER_CTX_free(gcm); /* wipes its copy of the key */
    size_t length = opened ? (size_t)secret->padded[0] << 8 | secret->padded[1] : 0;
    if (length > 0 && 2 + length <= request->ciphertext.length - TAG_SIZE)
        return length;
    explicit_bzero(secret->padded, sizeof secret->padded);
    return 0;
}
