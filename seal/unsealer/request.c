#include "request.h"

#include <string.h>
#include <tss2/tss2_mu.h>

struct reader {
    const uint8_t *at;
    size_t left;
};

static int take(struct reader *reader, size_t length, const uint8_t **ret)
{
    if (length > reader->left)
        return -1;
    *ret = reader->at;
    reader->at += length;
    reader->left -= length;
    return 0;
}

static int take_number(struct reader *reader, size_t size, uint32_t *ret)
{
    const uint8_t *bytes;
    uint32_t value = 0;

    if (take(reader, size, &bytes) != 0)
        return -1;
    for (size_t i = 0; i < size; i++)
        value = value << 8 | bytes[i];
    *ret = value;
    return 0;
}

/* A u16 length, then as many bytes, at least min and at most max. */
static int take_sized(struct reader *reader, size_t min, size_t max, struct bytes *ret)
{
    uint32_t length;

    if (take_number(reader, 2, &length) != 0 || length < min || length > max)
        return -1;
    ret->length = length;
    return take(reader, length, &ret->at);
}

/* Into the buffer of a TPM2B. */
static int take_buffer(struct reader *reader, size_t min, size_t max, uint8_t *buffer, UINT16 *ret_size)
{
    struct bytes bytes;

    if (take_sized(reader, min, max, &bytes) != 0)
        return -1;
    memcpy(buffer, bytes.at, bytes.length);
    *ret_size = (UINT16)bytes.length;
    return 0;
}

/* u64 as the operand of PolicyNV: the same 8 bytes. */
static int take_operand(struct reader *reader, TPM2B_OPERAND *ret)
{
    const uint8_t *bytes;

    if (take(reader, 8, &bytes) != 0)
        return -1;
    memcpy(ret->buffer, bytes, 8);
    ret->size = 8;
    return 0;
}

static int take_public(struct reader *reader, size_t max, TPM2B_PUBLIC *ret)
{
    struct bytes bytes;
    size_t offset = 0;

    if (take_sized(reader, 1, max, &bytes) != 0)
        return -1;
    if (Tss2_MU_TPMT_PUBLIC_Unmarshal(bytes.at, bytes.length, &offset, &ret->publicArea) != TSS2_RC_SUCCESS ||
        offset != bytes.length)
        return -1;
    ret->size = 0; /* libtss2 writes it when it marshals */
    return 0;
}

static int take_signature(struct reader *reader, TPMT_SIGNATURE *ret)
{
    struct bytes bytes;
    size_t offset = 0;

    if (take_sized(reader, 1, 512, &bytes) != 0)
        return -1;
    if (Tss2_MU_TPMT_SIGNATURE_Unmarshal(bytes.at, bytes.length, &offset, ret) != TSS2_RC_SUCCESS || offset != bytes.length)
        return -1;
    return 0;
}

static int take_approval(struct reader *reader, struct approval *ret)
{
    if (take_public(reader, 512, &ret->key) != 0)
        return -1;
    if (take_buffer(reader, 1, 64, ret->policy_ref.buffer, &ret->policy_ref.size) != 0)
        return -1;
    if (take_buffer(reader, 32, 32, ret->approved.buffer, &ret->approved.size) != 0)
        return -1;
    return take_signature(reader, &ret->signature);
}

static int take_head(struct reader *reader)
{
    const uint8_t *magic;
    uint32_t version;

    if (take(reader, 4, &magic) != 0 || memcmp(magic, "ICUS", 4) != 0)
        return -1;
    return take_number(reader, 4, &version) == 0 && version == 2 ? 0 : -1;
}

static int take_name(struct reader *reader, TPM2B_NAME *ret)
{
    if (take_buffer(reader, 34, 50, ret->name, &ret->size) != 0)
        return -1;
    uint16_t algorithm = (uint16_t)(ret->name[0] << 8 | ret->name[1]);
    if (algorithm == TPM2_ALG_SHA256)
        return ret->size == 34 ? 0 : -1;
    return algorithm == TPM2_ALG_SHA384 && ret->size == 50 ? 0 : -1;
}

/* Second gate after the package's own parser: with any other attribute the object could be opened without its policy. */
static int take_object(struct reader *reader, TPM2B_PUBLIC *ret)
{
    if (take_public(reader, 256, ret) != 0)
        return -1;
    const TPMT_PUBLIC *area = &ret->publicArea;
    if (area->type != TPM2_ALG_KEYEDHASH || area->nameAlg != TPM2_ALG_SHA256)
        return -1;
    if (area->objectAttributes != (TPMA_OBJECT_NODA | TPMA_OBJECT_ADMINWITHPOLICY))
        return -1;
    return area->authPolicy.size == TPM2_SHA256_DIGEST_SIZE ? 0 : -1;
}

static int take_pcrs(struct reader *reader, TPML_PCR_SELECTION *ret)
{
    uint32_t count, index;
    int previous = -1;

    if (take_number(reader, 1, &count) != 0 || count < 1 || count > 16)
        return -1;
    ret->count = 1;
    ret->pcrSelections[0].hash = TPM2_ALG_SHA256;
    ret->pcrSelections[0].sizeofSelect = 3;
    for (uint32_t i = 0; i < count; i++) {
        if (take_number(reader, 1, &index) != 0 || (int)index <= previous || index > 15)
            return -1;
        ret->pcrSelections[0].pcrSelect[index / 8] |= (BYTE)(1u << (index % 8));
        previous = (int)index;
    }
    return 0;
}

static int take_epoch_index(struct reader *reader, TPM2_HANDLE *ret)
{
    return take_number(reader, 4, ret) == 0 && *ret >= 0x01800000 && *ret <= 0x01bfffff ? 0 : -1;
}

static int take_sinks(struct reader *reader, unsigned *ret)
{
    uint32_t sinks;

    if (take_number(reader, 1, &sinks) != 0 || sinks < 1 || sinks > SINKS_MAX)
        return -1;
    *ret = sinks;
    return 0;
}

const char *parse_request(const uint8_t *bytes, size_t length, struct request *ret)
{
    struct reader reader = { bytes, length };

    memset(ret, 0, sizeof *ret);
    if (take_head(&reader) != 0)
        return "magic and version";
    if (take_name(&reader, &ret->ek_name) != 0)
        return "ekName";
    if (take_number(&reader, 4, &ret->ek_handle) != 0 || ret->ek_handle >> 24 != TPM2_HT_PERSISTENT)
        return "ekPersistentHandle";
    if (take_object(&reader, &ret->object) != 0)
        return "objectPublic";
    if (take_buffer(&reader, 1, 512, ret->imported.buffer, &ret->imported.size) != 0)
        return "imported";
    if (take_sized(&reader, NONCE_SIZE, NONCE_SIZE, &ret->nonce) != 0)
        return "nonce";
    if (take_sized(&reader, 1, 512, &ret->label) != 0)
        return "label";
    if (take_sized(&reader, PADDED_MIN + TAG_SIZE, PADDED_MAX + TAG_SIZE, &ret->ciphertext) != 0)
        return "ciphertext";
    if (take_buffer(&reader, 32, 32, ret->pcr_digest.buffer, &ret->pcr_digest.size) != 0)
        return "pcrDigest";
    if (take_pcrs(&reader, &ret->pcrs) != 0)
        return "pcrs";
    if (take_epoch_index(&reader, &ret->epoch_index) != 0)
        return "epoch index";
    if (take_operand(&reader, &ret->release_limit) != 0 || take_operand(&reader, &ret->delegation_limit) != 0)
        return "epoch limits";
    if (take_approval(&reader, &ret->release) != 0)
        return "release approval";
    if (take_approval(&reader, &ret->root) != 0)
        return "root approval";
    if (take_sinks(&reader, &ret->sinks) != 0)
        return "sinks";
    return reader.left == 0 ? NULL : "end";
}
