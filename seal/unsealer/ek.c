#include "ek.h"

#include <openssl/evp.h>
#include <string.h>
#include <tss2/tss2_mu.h>

/* TCG EK Credential Profile: authPolicy of the L templates (PolicySecret of the endorsement hierarchy) and of the H templates. */
static const uint8_t L1_POLICY[32] = {
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24,
    0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
};
static const uint8_t H3_POLICY[48] = {
    0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a,
    0x07, 0x41, 0x48, 0xbb, 0x35, 0xd3, 0xb4, 0xe4, 0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca,
    0xcb, 0x47, 0xba, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12,
};
/* The two branches of H3_POLICY: PolicySecret of the endorsement hierarchy, and PolicyAuthorizeNV of an index not used here. */
static const TPML_DIGEST H3_BRANCHES = {
    .count = 2,
    .digests = {
        { .size = 48,
          .buffer = { 0x8b, 0xbf, 0x22, 0x66, 0x53, 0x7c, 0x17, 0x1c, 0xb5, 0x6e, 0x40, 0x3c, 0x4d, 0xc1, 0xd4, 0xb6,
                      0x4f, 0x43, 0x26, 0x11, 0xdc, 0x38, 0x6e, 0x6f, 0x53, 0x20, 0x50, 0xc3, 0x27, 0x8c, 0x93, 0x0e,
                      0x14, 0x3e, 0x8b, 0xb1, 0x13, 0x38, 0x24, 0xcc, 0xb4, 0x31, 0x05, 0x38, 0x71, 0xc6, 0xdb, 0x53 } },
        { .size = 48,
          .buffer = { 0xd6, 0x03, 0x2c, 0xe6, 0x1f, 0x2f, 0xb3, 0xc2, 0x40, 0xeb, 0x3c, 0xf6, 0xa3, 0x32, 0x37, 0xef,
                      0x2b, 0x6a, 0x16, 0xf4, 0x29, 0x3c, 0x22, 0xb4, 0x55, 0xe2, 0x61, 0xcf, 0xfd, 0x21, 0x7a, 0xd5,
                      0xb4, 0x94, 0x7c, 0x2d, 0x73, 0xe6, 0x30, 0x05, 0xee, 0xd2, 0xdc, 0x2b, 0x35, 0x93, 0xd1, 0x65 } },
    },
};
#define EK_ATTRIBUTES                                                                                                  \
    (TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT | TPMA_OBJECT_SENSITIVEDATAORIGIN | TPMA_OBJECT_ADMINWITHPOLICY |   \
     TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_DECRYPT)

static bool is_rsa_name(const TPM2B_NAME *name)
{
    return name->size == 34;
}

static void template_l1(TPMT_PUBLIC *ret)
{
    ret->type = TPM2_ALG_RSA;
    ret->nameAlg = TPM2_ALG_SHA256;
    ret->objectAttributes = EK_ATTRIBUTES;
    ret->authPolicy.size = sizeof L1_POLICY;
    memcpy(ret->authPolicy.buffer, L1_POLICY, sizeof L1_POLICY);
    ret->parameters.rsaDetail.symmetric.algorithm = TPM2_ALG_AES;
    ret->parameters.rsaDetail.symmetric.keyBits.aes = 128;
    ret->parameters.rsaDetail.symmetric.mode.aes = TPM2_ALG_CFB;
    ret->parameters.rsaDetail.scheme.scheme = TPM2_ALG_NULL;
    ret->parameters.rsaDetail.keyBits = 2048;
    ret->unique.rsa.size = 256; /* zeros, part of the template */
}

static void template_h3(TPMT_PUBLIC *ret)
{
    ret->type = TPM2_ALG_ECC;
    ret->nameAlg = TPM2_ALG_SHA384;
    ret->objectAttributes = EK_ATTRIBUTES | TPMA_OBJECT_USERWITHAUTH;
    ret->authPolicy.size = sizeof H3_POLICY;
    memcpy(ret->authPolicy.buffer, H3_POLICY, sizeof H3_POLICY);
    ret->parameters.eccDetail.symmetric.algorithm = TPM2_ALG_AES;
    ret->parameters.eccDetail.symmetric.keyBits.aes = 256;
    ret->parameters.eccDetail.symmetric.mode.aes = TPM2_ALG_CFB;
    ret->parameters.eccDetail.scheme.scheme = TPM2_ALG_NULL;
    ret->parameters.eccDetail.curveID = TPM2_ECC_NIST_P384;
    ret->parameters.eccDetail.kdf.scheme = TPM2_ALG_NULL;
}

/* Computed from the public area, which is what the salt will be encrypted to: a Name that the TPM merely states would not bind it. */
static bool has_name(const uint8_t *area, size_t length, const TPM2B_NAME *name)
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned digest_length = 0;
    const EVP_MD *hash = is_rsa_name(name) ? EVP_sha256() : EVP_sha384();

    if (EVP_Digest(area, length, digest, &digest_length, hash, NULL) != 1 || digest_length + 2u != name->size)
        return false;
    return memcmp(digest, name->name + 2, digest_length) == 0;
}

static bool public_has_name(const TPMT_PUBLIC *area, const TPM2B_NAME *name)
{
    uint8_t bytes[sizeof(TPMT_PUBLIC)];
    size_t length = 0;

    return Tss2_MU_TPMT_PUBLIC_Marshal(area, bytes, sizeof bytes, &length) == TSS2_RC_SUCCESS && has_name(bytes, length, name);
}

/*
 * The public area that libtss2 holds for the handle and will encrypt the salt to, not the answer to another ReadPublic.
 * Serialised as: u32 handle | TPM2B_NAME | u32 type | TPM2B_PUBLIC; if that ever changes this is false and CreatePrimary follows.
 */
static bool handle_has_name(ESYS_CONTEXT *esys, ESYS_TR handle, const TPM2B_NAME *name)
{
    const size_t before = 4 + 2 + (size_t)name->size + 4;
    uint8_t *bytes = NULL;
    size_t length = 0;

    if (Esys_TR_Serialize(esys, handle, &bytes, &length) != TSS2_RC_SUCCESS)
        return false;
    bool same = length > before + 2 && (size_t)(bytes[before] << 8 | bytes[before + 1]) == length - before - 2 &&
                has_name(bytes + before + 2, length - before - 2, name);
    Esys_Free(bytes);
    return same;
}

/* The key at the persistent handle, if it is the one. Any other answer leads to CreatePrimary, whose failure is reported. */
static bool open_persistent(ESYS_CONTEXT *esys, const struct request *request, ESYS_TR *ret)
{
    ESYS_TR handle = ESYS_TR_NONE;

    if (Esys_TR_FromTPMPublic(esys, request->ek_handle, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &handle) != TSS2_RC_SUCCESS)
        return false;
    bool same = handle_has_name(esys, handle, &request->ek_name);
    if (same)
        *ret = handle;
    else
        (void)Esys_TR_Close(esys, &handle);
    return same;
}

static TSS2_RC create_ek(ESYS_CONTEXT *esys, const TPM2B_NAME *name, ESYS_TR *ret, TPM2B_PUBLIC **ret_public)
{
    TPM2B_PUBLIC template = { 0 };
    const TPM2B_SENSITIVE_CREATE no_auth = { 0 };
    const TPM2B_DATA no_data = { 0 };
    const TPML_PCR_SELECTION no_pcrs = { 0 };

    if (is_rsa_name(name))
        template_l1(&template.publicArea);
    else
        template_h3(&template.publicArea);
    return Esys_CreatePrimary(esys, ESYS_TR_RH_ENDORSEMENT, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &no_auth, &template,
                              &no_data, &no_pcrs, ret, ret_public, NULL, NULL, NULL);
}

int open_ek(ESYS_CONTEXT *esys, const struct request *request, struct ek *ret, struct answer *answer)
{
    *ret = (struct ek){ .handle = ESYS_TR_NONE, .is_rsa = is_rsa_name(&request->ek_name) };
    if (open_persistent(esys, request, &ret->handle))
        return 0;
    TPM2B_PUBLIC *area = NULL;
    TSS2_RC rc = create_ek(esys, &request->ek_name, &ret->handle, &area);
    if (rc != TSS2_RC_SUCCESS) {
        answer_failed(answer, "TPM2_CreatePrimary", rc, NULL);
        return -1;
    }
    ret->transient = true;
    bool same = public_has_name(&area->publicArea, &request->ek_name);
    Esys_Free(area);
    if (same)
        return 0;
    close_ek(esys, ret);
    answer_failed(answer, "TPM2_CreatePrimary", 0, "tpm replaced");
    return -1;
}

void close_ek(ESYS_CONTEXT *esys, struct ek *ek)
{
    if (ek->handle == ESYS_TR_NONE)
        return;
    if (ek->transient)
        (void)Esys_FlushContext(esys, ek->handle);
    else
        (void)Esys_TR_Close(esys, &ek->handle);
    ek->handle = ESYS_TR_NONE;
}

static TSS2_RC satisfy_ek_policy(ESYS_CONTEXT *esys, const struct ek *ek, ESYS_TR session, const char **command)
{
    TSS2_RC rc = Esys_TRSess_SetAttributes(esys, session, TPMA_SESSION_CONTINUESESSION, 0xff);

    *command = "TPM2_PolicySecret";
    if (rc == TSS2_RC_SUCCESS)
        rc = Esys_PolicySecret(esys, ESYS_TR_RH_ENDORSEMENT, session, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, NULL, NULL,
                               NULL, 0, NULL, NULL);
    if (rc == TSS2_RC_SUCCESS && !ek->is_rsa) {
        *command = "TPM2_PolicyOR";
        rc = Esys_PolicyOR(esys, session, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &H3_BRANCHES);
    }
    return rc;
}

/*
 * A policy session for one use of the EK. The P-384 EK would also take the empty password, but it is subject to the dictionary-attack
 * lockout: a few unclean power cycles after such a use lock it out (0x921). Its policy does not count. `command`: the one that failed.
 */
static TSS2_RC open_ek_use(ESYS_CONTEXT *esys, const struct ek *ek, ESYS_TR *ret, const char **command)
{
    const TPMT_SYM_DEF no_encryption = { .algorithm = TPM2_ALG_NULL };
    const TPMI_ALG_HASH hash = ek->is_rsa ? TPM2_ALG_SHA256 : TPM2_ALG_SHA384;
    TSS2_RC rc = Esys_StartAuthSession(esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, NULL,
                                       TPM2_SE_POLICY, &no_encryption, hash, ret);

    *command = "TPM2_StartAuthSession";
    if (rc != TSS2_RC_SUCCESS)
        return rc;
    rc = satisfy_ek_policy(esys, ek, *ret, command);
    if (rc != TSS2_RC_SUCCESS)
        (void)Esys_FlushContext(esys, *ret);
    return rc;
}

int load_sealed(ESYS_CONTEXT *esys, const struct request *request, const struct ek *ek, ESYS_TR *ret, struct answer *answer)
{
    ESYS_TR use;
    const char *command;
    TSS2_RC rc = open_ek_use(esys, ek, &use, &command);

    if (rc != TSS2_RC_SUCCESS) {
        answer_failed(answer, command, rc, NULL);
        return -1;
    }
    rc = Esys_Load(esys, ek->handle, use, ESYS_TR_NONE, ESYS_TR_NONE, &request->imported, &request->object, ret);
    (void)Esys_FlushContext(esys, use);
    if (rc == TSS2_RC_SUCCESS)
        return 0;
    answer_failed(answer, "TPM2_Load", rc, NULL);
    return -1;
}
