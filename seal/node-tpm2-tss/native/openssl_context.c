/*
 * libtss2 opens an OpenSSL library context of its own for each hash, HMAC and nonce, and gives it up again (esys_crypto_ossl.c): half a millisecond
 * each time, which is most of what it needs for a command with a session. These are found before the functions of the same names in libcrypto, and give
 * it the one that there is: by a program, and by an add-on that is loaded with RTLD_DEEPBIND.
 */
#include <openssl/crypto.h>

#define FOUND_BY_LIBTSS2 __attribute__((visibility("default")))

FOUND_BY_LIBTSS2 OSSL_LIB_CTX *OSSL_LIB_CTX_new(void)
{
    return OSSL_LIB_CTX_get0_global_default();
}

FOUND_BY_LIBTSS2 void OSSL_LIB_CTX_free(OSSL_LIB_CTX *context)
{
    (void)context;
}
