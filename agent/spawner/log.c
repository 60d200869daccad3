#include "log_format.h"
#include "spawner.h"

#include <errno.h>
#include <stdarg.h>
#include <unistd.h>

#define PATIENCE 20
#define PATIENCE_US 10000

static struct log_settings settings = {.least = '6'};

const char *open_log(const char *asked, const char *stream) {
    settings = log_settings(asked, stream);
    if (settings.unreadable) log_line(LEVEL_WARNING "IRONCLAW_LOG: expected a level, or journal: or plain: and a level");
    return log_word(&settings);
}

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
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    size_t length = format_log_line(line, sizeof line, &settings, "spawner", format, arguments);
    va_end(arguments);
    write_log(line, length);
}
