/*
 * What the files of this addon share: one ESYS context, one job (a command on its way to the TPM and back), and the
 * tables of commands. A job runs on a libuv worker; nothing in `commands-*.c` may touch Node-API.
 */
#ifndef TPM2_TSS_H
#define TPM2_TSS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <tss2/tss2_esys.h>
#include <tss2/tss2_mu.h>
#include <tss2/tss2_rc.h>
#include <tss2/tss2_tctildr.h>

enum { MAX_INPUTS = 12, MAX_OUTPUTS = 12, SESSION_SLOTS = 3 };

/* What crosses the line between JavaScript and C: a 32-bit number, or bytes as the TCG marshals them. */
struct value {
    bool is_bytes;
    uint32_t number;
    size_t size;
    uint8_t *bytes;
};

struct tpm {
    ESYS_CONTEXT *esys;
    TSS2_TCTI_CONTEXT *tcti;
    /* An ESYS context is not safe for threads: the queue in JavaScript keeps one command in flight, and this proves it.
     * Read and written on the JavaScript thread only. */
    bool busy;
};

struct job {
    struct tpm *tpm;
    const struct command *command;
    ESYS_TR sessions[SESSION_SLOTS];
    struct value in[MAX_INPUTS];
    size_t in_count;
    struct value out[MAX_OUTPUTS];
    size_t out_count;
    TSS2_RC rc;
};

struct command {
    const char *name;
    /* One letter for each input after the three sessions: n number, b bytes. */
    const char *inputs;
    TSS2_RC (*run)(struct job *job);
};

/* Tables, each ended by an entry without a name. */
extern const struct command context_commands[];
extern const struct command session_commands[];
extern const struct command policy_commands[];
extern const struct command object_commands[];
extern const struct command unseal_commands[];
extern const struct command proof_commands[];
extern const struct command pcr_commands[];
extern const struct command nv_commands[];
extern const struct command hierarchy_commands[];
extern const struct command general_commands[];

/* The command with this name, or NULL. */
const struct command *find_command(const char *name);

/* Ends the connection if there is one. */
void close_tpm(struct tpm *tpm);

/* marshal.c: inputs. Trailing or missing bytes are TSS2_MU_RC_BAD_SIZE. */
TSS2_RC in_public(const struct job *job, size_t index, TPM2B_PUBLIC *to);
TSS2_RC in_pcr_selection(const struct job *job, size_t index, TPML_PCR_SELECTION *to);
TSS2_RC in_digest_list(const struct job *job, size_t index, TPML_DIGEST *to);
TSS2_RC in_signature(const struct job *job, size_t index, TPMT_SIGNATURE *to);
TSS2_RC in_verified_ticket(const struct job *job, size_t index, TPMT_TK_VERIFIED *to);
TSS2_RC in_hashcheck_ticket(const struct job *job, size_t index, TPMT_TK_HASHCHECK *to);
TSS2_RC in_creation_ticket(const struct job *job, size_t index, TPMT_TK_CREATION *to);
TSS2_RC in_sym_def_object(const struct job *job, size_t index, TPMT_SYM_DEF_OBJECT *to);
TSS2_RC in_public_parms(const struct job *job, size_t index, TPMT_PUBLIC_PARMS *to);
TSS2_RC in_context(const struct job *job, size_t index, TPMS_CONTEXT *to);
TSS2_RC in_sensitive(const struct job *job, size_t index, TPM2B_SENSITIVE *to);
TSS2_RC in_nv_public(const struct job *job, size_t index, TPM2B_NV_PUBLIC *to);
TSS2_RC in_sig_scheme(const struct job *job, size_t index, TPMT_SIG_SCHEME *to);
TSS2_RC in_digest(const struct job *job, size_t index, TPM2B_DIGEST *to);
TSS2_RC in_data(const struct job *job, size_t index, TPM2B_DATA *to);
TSS2_RC in_name(const struct job *job, size_t index, TPM2B_NAME *to);
TSS2_RC in_private(const struct job *job, size_t index, TPM2B_PRIVATE *to);
TSS2_RC in_id_object(const struct job *job, size_t index, TPM2B_ID_OBJECT *to);
TSS2_RC in_encrypted_secret(const struct job *job, size_t index, TPM2B_ENCRYPTED_SECRET *to);
TSS2_RC in_sensitive_data(const struct job *job, size_t index, TPM2B_SENSITIVE_DATA *to);
TSS2_RC in_event(const struct job *job, size_t index, TPM2B_EVENT *to);
TSS2_RC in_nv_buffer(const struct job *job, size_t index, TPM2B_MAX_NV_BUFFER *to);

/* marshal.c: outputs, in the order JavaScript receives them. */
TSS2_RC out_number(struct job *job, uint32_t number);
TSS2_RC out_bytes(struct job *job, const uint8_t *bytes, size_t size);
TSS2_RC out_public(struct job *job, const TPMT_PUBLIC *from);
TSS2_RC out_pcr_selection(struct job *job, const TPML_PCR_SELECTION *from);
TSS2_RC out_signature(struct job *job, const TPMT_SIGNATURE *from);
TSS2_RC out_verified_ticket(struct job *job, const TPMT_TK_VERIFIED *from);
TSS2_RC out_auth_ticket(struct job *job, const TPMT_TK_AUTH *from);
TSS2_RC out_nv_public(struct job *job, const TPMS_NV_PUBLIC *from);
TSS2_RC out_capability(struct job *job, const TPMS_CAPABILITY_DATA *from);
TSS2_RC out_creation_data(struct job *job, const TPMS_CREATION_DATA *from);
TSS2_RC out_creation_ticket(struct job *job, const TPMT_TK_CREATION *from);
TSS2_RC out_digest_values(struct job *job, const TPML_DIGEST_VALUES *from);
TSS2_RC out_context(struct job *job, const TPMS_CONTEXT *from);
TSS2_RC out_time_info(struct job *job, const TPMS_TIME_INFO *from);
/* The Name of a loaded object, as ESYS computed it from the public area. */
TSS2_RC out_name_of(struct job *job, ESYS_TR handle);

/* The three session parameters that every ESYS command takes. */
#define SESSIONS(job) (job)->sessions[0], (job)->sessions[1], (job)->sessions[2]

/* Runs a step only while every step before it has succeeded; needs a local TSS2_RC called rc. */
#define THEN(step) \
    do { \
        if (rc == TSS2_RC_SUCCESS) rc = (step); \
    } while (0)

#endif
