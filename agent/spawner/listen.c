#include "listen.h"
#include "spawner.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIRST_LISTEN 3
#define MAX_SCOPE 48
#define SUFFIX ".sock"

static int refuse(const char *what) {
    log_line(LEVEL_ERROR "inherited sockets: %s", what);
    return -1;
}

// 1 to MAX_LISTEN in its one spelling, or -1.
static int count_of(const char *text) {
    char back[8];
    long count = strtol(text, NULL, 10);
    if (count < 1 || count > MAX_LISTEN) return -1;
    snprintf(back, sizeof back, "%ld", count);
    return strcmp(back, text) == 0 ? (int)count : -1;
}

static bool is_own(const char *text) {
    char own[16];
    snprintf(own, sizeof own, "%d", (int)getpid());
    return strcmp(own, text) == 0;
}

// A scope's name and ".sock": whatever else stands in the agent's environment comes from here.
static bool name_is_sound(const char *name, size_t length) {
    if (length <= strlen(SUFFIX) || length > MAX_SCOPE + strlen(SUFFIX)) return false;
    size_t stem = length - strlen(SUFFIX);
    if (name[0] == '-' || memcmp(name + stem, SUFFIX, strlen(SUFFIX)) != 0) return false;
    for (size_t i = 0; i < stem; i++) {
        bool is_letter = (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= '0' && name[i] <= '9');
        if (!is_letter && name[i] != '-') return false;
    }
    return true;
}

static bool names_are_sound(const char *names, int count) {
    int found = 0;
    for (const char *name = names;; name += strcspn(name, ":") + 1) {
        size_t length = strcspn(name, ":");
        if (++found > count || !name_is_sound(name, length)) return false;
        if (name[length] == '\0') return found == count;
    }
}

static bool has_option(int fd, int option, int expected) {
    int value = 0;
    socklen_t size = sizeof value;
    return getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 && value == expected;
}

// A Unix stream socket that listens. From here on no other child has it.
static bool take_one(int fd) {
    return has_option(fd, SO_DOMAIN, AF_UNIX) && has_option(fd, SO_TYPE, SOCK_STREAM) && has_option(fd, SO_ACCEPTCONN, 1) &&
           fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
}

int take_listen_sockets(struct listen_sockets *sockets) {
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS"), *names = getenv("LISTEN_FDNAMES");
    if (fds == NULL) return 0;
    // Another's sockets would be passed over in silence, and clients wait on them for ever.
    if (pid == NULL || !is_own(pid)) return refuse("LISTEN_PID is not this process");
    int count = count_of(fds);
    if (count < 0) return refuse("LISTEN_FDS: expected 1 to 64");
    if (names == NULL || !names_are_sound(names, count)) return refuse("LISTEN_FDNAMES: expected <scope>.sock for each");
    for (int i = 0; i < count; i++) {
        if (!take_one(FIRST_LISTEN + i)) return refuse("expected Unix stream sockets that listen");
        sockets->fds[i] = FIRST_LISTEN + i;
    }
    sockets->count = count;
    memcpy(sockets->names, names, strlen(names) + 1);
    return 0;
}
