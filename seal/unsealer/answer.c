#include "answer.h"

#include <stdio.h>
#include <string.h>
#include <tss2/tss2_rc.h>

enum { EXIT_RELEASED = 0, EXIT_REFUSED = 1, EXIT_REQUEST = 3, EXIT_ENVIRONMENT = 4 };

void answer_failed(struct answer *answer, const char *command, uint32_t rc, const char *text)
{
    answer->outcome = OUTCOME_FAILED;
    answer->failure.command = command;
    answer->failure.rc = rc;
    answer->text = text;
}

void answer_refused(struct answer *answer, const char *command, uint32_t rc)
{
    answer->outcome = OUTCOME_REFUSED;
    if (answer->refusal_count < REFUSALS_MAX)
        answer->refusals[answer->refusal_count++] = (struct command_answer){ command, rc };
}

/* Texts are libtss2's or ours: printable ASCII. Anything else becomes a question mark rather than broken JSON. */
static void print_text(const char *text)
{
    putchar('"');
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            putchar('\\');
        putchar(*text >= 0x20 && *text < 0x7f ? *text : '?');
    }
    putchar('"');
}

static void print_command(const struct command_answer *answer, const char *text)
{
    printf("\"command\":\"%s\",\"rc\":\"0x%08x\",\"text\":", answer->command, answer->rc);
    print_text(text != NULL ? text : Tss2_RC_Decode(answer->rc));
}

static void print_refusals(const struct answer *answer)
{
    printf("{\"kind\":\"refused\",\"answers\":[");
    for (size_t i = 0; i < answer->refusal_count; i++) {
        printf(i == 0 ? "{" : ",{");
        print_command(&answer->refusals[i], NULL);
        putchar('}');
    }
    printf("]}\n");
}

static int print_outcome(const struct answer *answer)
{
    switch (answer->outcome) {
    case OUTCOME_RELEASED:
        printf("{\"kind\":\"released\",\"ms\":%lu}\n", answer->ms);
        return EXIT_RELEASED;
    case OUTCOME_REFUSED:
        print_refusals(answer);
        return EXIT_REFUSED;
    case OUTCOME_DISCARDED:
        printf("{\"kind\":\"discarded\"}\n");
        return EXIT_REFUSED;
    case OUTCOME_FAILED:
        break;
    }
    printf("{\"kind\":\"failed\",");
    print_command(&answer->failure, answer->text);
    printf("}\n");
    return strcmp(answer->failure.command, "request") == 0 ? EXIT_REQUEST : EXIT_ENVIRONMENT;
}

int print_answer(const struct answer *answer)
{
    int exit_code = print_outcome(answer);

    return fflush(stdout) == 0 ? exit_code : EXIT_ENVIRONMENT;
}
