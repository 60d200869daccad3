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

void say(const char *format, ...) {
    char line[256];
    va_list arguments;
    int used = snprintf(line, sizeof line, "relay %.16s: ", label);
    va_start(arguments, format);
    int more = vsnprintf(line + used, sizeof line - (size_t)used - 1, format, arguments);
    va_end(arguments);
    size_t room = sizeof line - (size_t)used - 2;
    size_t length = (size_t)used + (more < 0 ? 0 : (size_t)more > room ? room : (size_t)more);
    line[length++] = '\n';
    // The pipe never blocks: a log that nobody reads loses lines, not connections.
    if (write(STDERR_FILENO, line, length) < 0) return;
}

static void open_targets(struct target *targets, char **names, size_t count) {
    for (size_t i = 0; i < count; i++) {
        int listens = 0;
        socklen_t size = sizeof listens;
        targets[i].name = names[i];
        if (!parse_endpoint(names[i], &targets[i].endpoint)) {
            say("target %zu: not an address", i);
            exit(2);
        }
        if (getsockopt(FIRST_LISTENER + (int)i, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || !listens) {
            say("descriptor %zu: not a listener", FIRST_LISTENER + i);
            exit(2);
        }
    }
}

int main(int argc, char **argv) {
    static struct target targets[MAX_ENDPOINTS];
    if (argc > 1) label = argv[1];
    if (argc < 3 || argc > 2 + MAX_ENDPOINTS) {
        say("usage: relay ID TARGET...");
        return 2;
    }
    size_t count = (size_t)argc - 2;
    open_targets(targets, argv + 2, count);
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR || confine(targets, count) != 0) {
        say("cannot be confined: %s", strerror(errno));
        return 3;
    }
    say("ready, %zu endpoints, at most %d connections", count, MAX_CONNECTIONS);
    forward(targets, count);
}
