#include "spawner.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#define PATIENCE 20
#define PATIENCE_US 10000

// Whoever has the console open may stop it (TCXONC), the agent too: PID 1 must be able to cap all the same.
void write_log(const char *bytes, size_t length) {
    for (int waited = 0; length > 0;) {
        ssize_t n = write(STDERR_FILENO, bytes, length);
        if (n > 0) {
            bytes += n;
            length -= (size_t)n;
        } else {
            if (errno != EAGAIN || waited++ == PATIENCE) return; // nobody is left to tell
            usleep(PATIENCE_US);
        }
    }
}

// One line, one write: the console is shared with the agent.
void log_line(const char *format, ...) {
    char line[512] = "spawner: ";
    va_list arguments;
    va_start(arguments, format);
    int used = vsnprintf(line + 9, sizeof line - 10, format, arguments);
    va_end(arguments);
    size_t length = 9 + (used < 0 ? 0 : (size_t)used > sizeof line - 11 ? sizeof line - 11 : (size_t)used);
    line[length++] = '\n';
    write_log(line, length);
}
