// What a child writes into a pipe, on its way to the log.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define MAX_OUTPUT_LINE 1024 // with its line feed

struct output {
    int fd;      // reading end, -1 after its end
    size_t held; // of a line that has not ended
    char line[MAX_OUTPUT_LINE];
};

// Copies some of what was written to the log. False when there is nothing more for now; closed at its end.
bool pass_on_output(struct output *output);
// What a child left behind that has ended: as much as a pipe holds, in case something else still writes into it.
void drain_output(struct output *output);
// Nothing comes any more: what is held ends its line.
void close_output(struct output *output);
