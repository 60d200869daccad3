#include "spawner.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

// One line, one write: the console is shared with the agent and the workloads.
void log_line(const char *format, ...) {
    char line[512] = "spawner: ";
    va_list arguments;
    va_start(arguments, format);
    int used = vsnprintf(line + 9, sizeof line - 10, format, arguments);
    va_end(arguments);
    size_t length = 9 + (used < 0 ? 0 : (size_t)used > sizeof line - 11 ? sizeof line - 11 : (size_t)used);
    line[length++] = '\n';
    ssize_t ignored = write(STDERR_FILENO, line, length);
    (void)ignored; // nobody is left to tell
}
