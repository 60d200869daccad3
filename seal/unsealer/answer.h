/* The one line that the unsealer prints: see ../FORMATS.md, section 8. */
#ifndef IRONCLAW_UNSEALER_ANSWER_H
#define IRONCLAW_UNSEALER_ANSWER_H

#include <stddef.h>
#include <stdint.h>

#define REFUSALS_MAX 2 /* a policy step, and TPM2_Unseal */

enum outcome { OUTCOME_FAILED, OUTCOME_RELEASED, OUTCOME_REFUSED, OUTCOME_DISCARDED };

/* A command and the response code that it got. */
struct command_answer {
    const char *command;
    uint32_t rc;
};

struct answer {
    enum outcome outcome;
    unsigned long ms;                          /* released */
    struct command_answer refusals[REFUSALS_MAX]; /* refused */
    size_t refusal_count;
    struct command_answer failure;             /* failed */
    const char *text;                          /* failed: NULL for the code's own text */
};

void answer_failed(struct answer *answer, const char *command, uint32_t rc, const char *text);
void answer_refused(struct answer *answer, const char *command, uint32_t rc);

/* Prints the line on standard output. Returns the exit code. */
int print_answer(const struct answer *answer);

#endif
