#include "output.h"
#include "spawner.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define PIPE_SIZE 65536
#define ROOM (MAX_OUTPUT_LINE - 1) // the line feed of a line that is cut

// The log is shared: whole lines alone go there, and one that goes on and on is several.
static void pass_on_lines(struct output *output) {
    char *last = memrchr(output->line, '\n', output->held);
    size_t length = last == NULL ? 0 : (size_t)(last - output->line) + 1;
    if (length == 0 && output->held == MAX_OUTPUT_LINE) {
        char next = output->line[ROOM];
        output->line[ROOM] = '\n';
        write_log(output->line, MAX_OUTPUT_LINE);
        output->line[0] = next;
        output->held = 1;
        return;
    }
    write_log(output->line, length);
    output->held -= length;
    memmove(output->line, output->line + length, output->held);
}

static size_t take_output(struct output *output) {
    if (output->fd < 0) return 0;
    ssize_t n = read(output->fd, output->line + output->held, MAX_OUTPUT_LINE - output->held);
    if (n > 0) {
        output->held += (size_t)n;
        pass_on_lines(output);
        return (size_t)n;
    }
    if (n == 0 || errno != EAGAIN) close_output(output);
    return 0;
}

bool pass_on_output(struct output *output) { return take_output(output) > 0; }

void drain_output(struct output *output) {
    size_t passed = 0;
    for (size_t n; passed < PIPE_SIZE && (n = take_output(output)) > 0;) passed += n;
}

void close_output(struct output *output) {
    if (output->fd < 0) return;
    close(output->fd);
    output->fd = -1;
    if (output->held == 0) return;
    output->line[output->held] = '\n';
    write_log(output->line, output->held + 1);
    output->held = 0;
}
