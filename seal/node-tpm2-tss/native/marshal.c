/* Bytes to TPM structures and back, by libtss2-mu. Nothing here knows a command. */
#include <stdlib.h>
#include <string.h>

#include "tpm2_tss.h"

/* A whole structure: what is left over after it is an error, so that one value has one encoding. */
#define DEFINE_IN(NAME, TYPE) \
    TSS2_RC in_##NAME(const struct job *job, size_t index, TYPE *to) { \
        const struct value *from = &job->in[index]; \
        size_t used = 0; \
        memset(to, 0, sizeof *to); \
        TSS2_RC rc = Tss2_MU_##TYPE##_Unmarshal(from->bytes, from->size, &used, to); \
        return rc == TSS2_RC_SUCCESS && used != from->size ? TSS2_MU_RC_BAD_SIZE : rc; \
    }

/* The content of a TPM2B, whose size field is the length of the bytes. */
#define DEFINE_IN_SIZED(NAME, TYPE, FIELD) \
    TSS2_RC in_##NAME(const struct job *job, size_t index, TYPE *to) { \
        const struct value *from = &job->in[index]; \
        memset(to, 0, sizeof *to); \
        if (from->size > sizeof to->FIELD) return TSS2_MU_RC_BAD_SIZE; \
        if (from->size > 0) memcpy(to->FIELD, from->bytes, from->size); \
        to->size = (UINT16)from->size; \
        return TSS2_RC_SUCCESS; \
    }

/* No structure is longer on the wire than in memory: the wire has no padding and no unused union arms. */
#define DEFINE_OUT(NAME, TYPE) \
    TSS2_RC out_##NAME(struct job *job, const TYPE *from) { \
        uint8_t buffer[sizeof(TYPE)]; \
        size_t used = 0; \
        TSS2_RC rc = Tss2_MU_##TYPE##_Marshal(from, buffer, sizeof buffer, &used); \
        return rc == TSS2_RC_SUCCESS ? out_bytes(job, buffer, used) : rc; \
    }

static DEFINE_IN(public_area, TPMT_PUBLIC)
DEFINE_IN(pcr_selection, TPML_PCR_SELECTION)
DEFINE_IN(digest_list, TPML_DIGEST)
DEFINE_IN(signature, TPMT_SIGNATURE)
DEFINE_IN(verified_ticket, TPMT_TK_VERIFIED)
DEFINE_IN(hashcheck_ticket, TPMT_TK_HASHCHECK)
DEFINE_IN(creation_ticket, TPMT_TK_CREATION)
DEFINE_IN(sig_scheme, TPMT_SIG_SCHEME)
DEFINE_IN(sym_def_object, TPMT_SYM_DEF_OBJECT)
DEFINE_IN(public_parms, TPMT_PUBLIC_PARMS)
DEFINE_IN(context, TPMS_CONTEXT)
static DEFINE_IN(sensitive_area, TPMT_SENSITIVE)
static DEFINE_IN(nv_public_area, TPMS_NV_PUBLIC)
DEFINE_IN_SIZED(digest, TPM2B_DIGEST, buffer)
DEFINE_IN_SIZED(data, TPM2B_DATA, buffer)
DEFINE_IN_SIZED(name, TPM2B_NAME, name)
DEFINE_IN_SIZED(private, TPM2B_PRIVATE, buffer)
DEFINE_IN_SIZED(id_object, TPM2B_ID_OBJECT, credential)
DEFINE_IN_SIZED(encrypted_secret, TPM2B_ENCRYPTED_SECRET, secret)
DEFINE_IN_SIZED(sensitive_data, TPM2B_SENSITIVE_DATA, buffer)
DEFINE_IN_SIZED(event, TPM2B_EVENT, buffer)
DEFINE_IN_SIZED(nv_buffer, TPM2B_MAX_NV_BUFFER, buffer)

DEFINE_OUT(public, TPMT_PUBLIC)
DEFINE_OUT(pcr_selection, TPML_PCR_SELECTION)
DEFINE_OUT(signature, TPMT_SIGNATURE)
DEFINE_OUT(verified_ticket, TPMT_TK_VERIFIED)
DEFINE_OUT(auth_ticket, TPMT_TK_AUTH)
DEFINE_OUT(nv_public, TPMS_NV_PUBLIC)
DEFINE_OUT(capability, TPMS_CAPABILITY_DATA)
DEFINE_OUT(creation_data, TPMS_CREATION_DATA)
DEFINE_OUT(creation_ticket, TPMT_TK_CREATION)
DEFINE_OUT(digest_values, TPML_DIGEST_VALUES)
DEFINE_OUT(context, TPMS_CONTEXT)
DEFINE_OUT(time_info, TPMS_TIME_INFO)

/* ESYS takes the TPM2B of these; its size field stays 0, and libtss2-mu fills it in. */
TSS2_RC in_public(const struct job *job, size_t index, TPM2B_PUBLIC *to) {
    memset(to, 0, sizeof *to);
    return in_public_area(job, index, &to->publicArea);
}

TSS2_RC in_sensitive(const struct job *job, size_t index, TPM2B_SENSITIVE *to) {
    memset(to, 0, sizeof *to);
    return in_sensitive_area(job, index, &to->sensitiveArea);
}

TSS2_RC in_nv_public(const struct job *job, size_t index, TPM2B_NV_PUBLIC *to) {
    memset(to, 0, sizeof *to);
    return in_nv_public_area(job, index, &to->nvPublic);
}

TSS2_RC out_number(struct job *job, uint32_t number) {
    if (job->out_count == MAX_OUTPUTS) return TSS2_ESYS_RC_GENERAL_FAILURE;
    job->out[job->out_count++] = (struct value){.is_bytes = false, .number = number};
    return TSS2_RC_SUCCESS;
}

TSS2_RC out_bytes(struct job *job, const uint8_t *bytes, size_t size) {
    if (job->out_count == MAX_OUTPUTS) return TSS2_ESYS_RC_GENERAL_FAILURE;
    uint8_t *copy = malloc(size > 0 ? size : 1);
    if (copy == NULL) return TSS2_ESYS_RC_MEMORY;
    if (size > 0) memcpy(copy, bytes, size);
    job->out[job->out_count++] = (struct value){.is_bytes = true, .size = size, .bytes = copy};
    return TSS2_RC_SUCCESS;
}

TSS2_RC out_name_of(struct job *job, ESYS_TR handle) {
    TPM2B_NAME *name = NULL;
    TSS2_RC rc = Esys_TR_GetName(job->tpm->esys, handle, &name);
    THEN(out_bytes(job, name->name, name->size));
    Esys_Free(name);
    return rc;
}
