// relay ID TARGET...: descriptor 3 + i is the listener that leads to the i-th target.
#include "relay.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *label = "?";
static struct log_settings settings = {.least = '7'};

void say(const char *format, ...) {
    char line[256], component[24];
    va_list arguments;
    snprintf(component, sizeof component, "relay %.16s", label);
    va_start(arguments, format);
    size_t length = format_log_line(line, sizeof line, &settings, component, format, arguments);
    va_end(arguments);
    // The pipe never blocks: a log that nobody reads loses lines, not connections.
    if (length > 0 && write(STDERR_FILENO, line, length) < 0) return;
}

static void open_targets(struct target *targets, char **names, size_t count) {
    for (size_t i = 0; i < count; i++) {
        int listens = 0;
        socklen_t size = sizeof listens;
        targets[i].name = names[i];
        if (!parse_endpoint(names[i], &targets[i].endpoint)) {
            say(LEVEL_ERROR "target %zu: not an address", i);
            exit(2);
        }
        if (getsockopt(FIRST_LISTENER + (int)i, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || !listens) {
            say(LEVEL_ERROR "descriptor %zu: not a listener", FIRST_LISTENER + i);
            exit(2);
        }
    }
}

int main(int argc, char **argv) {
    static struct target targets[MAX_ENDPOINTS];
    const struct log_settings asked = log_settings(getenv("IRONCLAW_LOG"), NULL);
    settings.journal = asked.journal; // every level, until it is ready: the spawner waits for its words
    if (argc > 1) label = argv[1];
    if (argc < 3 || argc > 2 + MAX_ENDPOINTS) {
        say(LEVEL_ERROR "usage: relay ID TARGET...");
        return 2;
    }
    size_t count = (size_t)argc - 2;
    open_targets(targets, argv + 2, count);
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR || confine(targets, count) != 0) {
        say(LEVEL_ERROR "cannot be confined: %s", strerror(errno));
        return 3;
    }
    say("ready, %zu endpoints, at most %d connections", count, MAX_CONNECTIONS);
    settings.least = asked.least;
    forward(targets, count);
}
