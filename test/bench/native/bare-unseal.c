/*
 * The peer of the row `unseal`: the TPM commands that an unseal needs and nothing else, straight through. It checks nothing that
 * the TPM does not check, hardens nothing, and gives up at the first error. Input: four sized16 byte strings (the two branches of
 * the EK's PolicyOR, or nothing; duplicate and encrypted seed, or nothing to load what the request holds), then an unsealer's request.
 */
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tss2/tss2_esys.h>
#include <tss2/tss2_mu.h>
#include <tss2/tss2_tctildr.h>
#include <unistd.h>

#include "request.h"

#define NONE3 ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE

struct input {
    struct bytes branches[2];
    struct bytes duplicate, seed;
    struct request request;
};

static ESYS_CONTEXT *esys;

static void must(int ok, const char *what)
{
    if (ok)
        return;
    (void)fprintf(stderr, "bare-unseal: %s\n", what);
    exit(1);
}

#define MUST(call) must((call) == TSS2_RC_SUCCESS, #call)

static struct bytes take(const uint8_t **at)
{
    struct bytes bytes = { *at + 2, (size_t)(*at)[0] << 8 | (*at)[1] };

    *at = bytes.at + bytes.length;
    return bytes;
}

static void read_input(struct input *ret)
{
    static uint8_t bytes[REQUEST_MAX + 4096];
    size_t length = 0;
    const uint8_t *at = bytes;

    for (ssize_t got = 1; got > 0; length += (size_t)got)
        must((got = read(STDIN_FILENO, bytes + length, sizeof bytes - length)) >= 0, "read");
    ret->branches[0] = take(&at);
    ret->branches[1] = take(&at);
    ret->duplicate = take(&at);
    ret->seed = take(&at);
    must(parse_request(at, length - (size_t)(at - bytes), &ret->request) == NULL, "request");
}

static TPMT_TK_VERIFIED *verify(const struct approval *approval)
{
    uint8_t message[96];
    TPM2B_DIGEST digest = { .size = 32 };
    TPMT_TK_VERIFIED *ticket;
    ESYS_TR key;
    const size_t approved = approval->approved.size, ref = approval->policy_ref.size;

    memcpy(message, approval->approved.buffer, approved);
    memcpy(message + approved, approval->policy_ref.buffer, ref);
    must(EVP_Digest(message, approved + ref, digest.buffer, NULL, EVP_sha256(), NULL) == 1, "digest");
    MUST(Esys_LoadExternal(esys, NONE3, NULL, &approval->key, ESYS_TR_RH_OWNER, &key));
    MUST(Esys_VerifySignature(esys, key, NONE3, &digest, &approval->signature, &ticket));
    MUST(Esys_FlushContext(esys, key));
    return ticket;
}

static ESYS_TR open_ek_session(const struct input *input)
{
    const TPMT_SYM_DEF none = { .algorithm = TPM2_ALG_NULL };
    const int is_ecc = input->branches[0].length > 0;
    TPML_DIGEST branches = { .count = 2 };
    ESYS_TR session;

    MUST(Esys_StartAuthSession(esys, ESYS_TR_NONE, ESYS_TR_NONE, NONE3, NULL, TPM2_SE_POLICY, &none,
                               is_ecc ? TPM2_ALG_SHA384 : TPM2_ALG_SHA256, &session));
    MUST(Esys_TRSess_SetAttributes(esys, session, TPMA_SESSION_CONTINUESESSION, 0xff));
    MUST(Esys_PolicySecret(esys, ESYS_TR_RH_ENDORSEMENT, session, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, NULL, NULL, NULL, 0,
                           NULL, NULL));
    for (size_t i = 0; is_ecc && i < 2; i++) {
        branches.digests[i].size = 48;
        memcpy(branches.digests[i].buffer, input->branches[i].at, 48);
    }
    if (is_ecc)
        MUST(Esys_PolicyOR(esys, session, NONE3, &branches));
    return session;
}

static void import(struct input *input, ESYS_TR ek)
{
    const TPM2B_DATA no_key = { 0 };
    const TPMT_SYM_DEF_OBJECT none = { .algorithm = TPM2_ALG_NULL };
    TPM2B_PRIVATE duplicate = { .size = (UINT16)input->duplicate.length }, *imported;
    TPM2B_ENCRYPTED_SECRET seed = { .size = (UINT16)input->seed.length };
    const ESYS_TR session = open_ek_session(input);

    memcpy(duplicate.buffer, input->duplicate.at, input->duplicate.length);
    memcpy(seed.secret, input->seed.at, input->seed.length);
    MUST(Esys_Import(esys, ek, session, ESYS_TR_NONE, ESYS_TR_NONE, &no_key, &input->request.object, &duplicate, &seed, &none,
                     &imported));
    MUST(Esys_FlushContext(esys, session));
    input->request.imported = *imported;
}

static ESYS_TR load(const struct input *input, ESYS_TR ek)
{
    const ESYS_TR session = open_ek_session(input);
    ESYS_TR object;

    MUST(Esys_Load(esys, ek, session, ESYS_TR_NONE, ESYS_TR_NONE, &input->request.imported, &input->request.object, &object));
    MUST(Esys_FlushContext(esys, session));
    return object;
}

static void authorize(ESYS_TR session, const struct approval *approval, const TPMT_TK_VERIFIED *ticket)
{
    uint8_t area[sizeof(TPMT_PUBLIC)];
    TPM2B_NAME name = { .size = 34, .name = { 0, TPM2_ALG_SHA256 } };
    size_t length = 0;

    MUST(Tss2_MU_TPMT_PUBLIC_Marshal(&approval->key.publicArea, area, sizeof area, &length));
    must(EVP_Digest(area, length, name.name + 2, NULL, EVP_sha256(), NULL) == 1, "name");
    MUST(Esys_PolicyAuthorize(esys, session, NONE3, &approval->approved, &approval->policy_ref, &name, ticket));
}

static TPM2B_SENSITIVE_DATA *unseal(const struct request *request, ESYS_TR ek, ESYS_TR object)
{
    const TPMT_SYM_DEF aes = { .algorithm = TPM2_ALG_AES, .keyBits.aes = 128, .mode.aes = TPM2_ALG_CFB };
    const TPMT_TK_VERIFIED *release = verify(&request->release), *root = verify(&request->root);
    TPM2B_SENSITIVE_DATA *data;
    ESYS_TR session, epoch;

    MUST(Esys_TR_FromTPMPublic(esys, request->epoch_index, NONE3, &epoch));
    MUST(Esys_StartAuthSession(esys, ek, ESYS_TR_NONE, NONE3, NULL, TPM2_SE_POLICY, &aes, TPM2_ALG_SHA256, &session));
    MUST(Esys_TRSess_SetAttributes(esys, session, TPMA_SESSION_CONTINUESESSION | TPMA_SESSION_ENCRYPT, 0xff));
    MUST(Esys_PolicyPCR(esys, session, NONE3, &request->pcr_digest, &request->pcrs));
    MUST(Esys_PolicyNV(esys, epoch, epoch, session, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &request->release_limit, 0,
                       TPM2_EO_UNSIGNED_LE));
    MUST(Esys_PolicyCommandCode(esys, session, NONE3, TPM2_CC_Unseal));
    authorize(session, &request->release, release);
    MUST(Esys_PolicyNV(esys, epoch, epoch, session, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &request->delegation_limit, 0,
                       TPM2_EO_UNSIGNED_LE));
    authorize(session, &request->root, root);
    MUST(Esys_Unseal(esys, object, session, ESYS_TR_NONE, ESYS_TR_NONE, &data));
    MUST(Esys_FlushContext(esys, session));
    return data;
}

static void deliver(const struct request *request, const uint8_t *key)
{
    static uint8_t padded[PADDED_MAX];
    const int size = (int)request->ciphertext.length - TAG_SIZE;
    EVP_CIPHER_CTX *gcm = EVP_CIPHER_CTX_new();
    int length;

    must(EVP_DecryptInit_ex(gcm, EVP_aes_256_gcm(), NULL, key, request->nonce.at) == 1 &&
             EVP_DecryptUpdate(gcm, NULL, &length, request->label.at, (int)request->label.length) == 1 &&
             EVP_DecryptUpdate(gcm, padded, &length, request->ciphertext.at, size) == 1 &&
             EVP_CIPHER_CTX_ctrl(gcm, EVP_CTRL_GCM_SET_TAG, TAG_SIZE, (uint8_t *)request->ciphertext.at + size) == 1 &&
             EVP_DecryptFinal_ex(gcm, padded + size, &length) == 1,
         "decrypt");
    const size_t delivered = 2 + ((size_t)padded[0] << 8 | padded[1]);
    must(write(3, padded, delivered) == (ssize_t)delivered, "write");
}

int main(int argc, char **argv)
{
    static struct input input;
    TSS2_TCTI_CONTEXT *tcti = NULL;
    ESYS_TR ek;

    must(argc == 2, "arguments");
    read_input(&input);
    MUST(Tss2_TctiLdr_Initialize(argv[1], &tcti));
    MUST(Esys_Initialize(&esys, tcti, NULL));
    MUST(Esys_TR_FromTPMPublic(esys, input.request.ek_handle, NONE3, &ek));
    if (input.duplicate.length > 0)
        import(&input, ek);
    const ESYS_TR object = load(&input, ek);
    deliver(&input.request, unseal(&input.request, ek, object)->buffer);
    MUST(Esys_FlushContext(esys, object));
    Esys_Finalize(&esys);
    Tss2_TctiLdr_Finalize(&tcti);
    (void)printf("{\"kind\":\"released\",\"ms\":0}\n");
    return 0;
}
