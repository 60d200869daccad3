#include "openssl.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdint.h>
#include <string.h>

/* As libtss2 does it: EVP_MAC is another algorithm. */
static int try_hmac(void)
{
    static const uint8_t key[32];
    uint8_t digest[EVP_MAX_MD_SIZE];
    size_t length = sizeof digest;
    EVP_PKEY *pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_HMAC, NULL, key, sizeof key);
    EVP_MD_CTX *hmac = EVP_MD_CTX_new();
    const int made = pkey != NULL && hmac != NULL && EVP_DigestSignInit(hmac, NULL, EVP_sha256(), NULL, pkey) == 1 &&
                     EVP_DigestSign(hmac, digest, &length, key, sizeof key) == 1;

    EVP_MD_CTX_free(hmac);
    EVP_PKEY_free(pkey);
    return made;
}

static int try_cipher(void)
{
    static const uint8_t zeros[32];
    EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
    const int made = cipher != NULL && EVP_EncryptInit_ex(cipher, EVP_aes_128_cfb128(), NULL, zeros, zeros) == 1;

    EVP_CIPHER_CTX_free(cipher);
    return made;
}

int open_openssl(void)
{
    uint8_t nonce[1];

    if (OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL) != 1)
        return -1;
    return RAND_bytes(nonce, sizeof nonce) == 1 && try_hmac() && try_cipher() ? 0 : -1;
}
