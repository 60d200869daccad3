// Stands in for a shim with device nodes and endpoints: one command a line on descriptor 3, one line back. Addresses are written as
// endpoints are.
#include "../../../agent/spawner/endpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <net/if.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <unistd.h>

static FILE *out;

static int say_errno(void) { return fprintf(out, "%s\n", strerrorname_np(errno)); }
static int say_result(long result) { return result < 0 ? say_errno() : fprintf(out, "%ld\n", result); }

static int connect_to(const char *text) {
    struct endpoint to;
    struct timeval patience = {30, 0};
    if (text[0] == '@') { // an abstract one
        to.address.path = (struct sockaddr_un){.sun_family = AF_UNIX};
        snprintf(to.address.path.sun_path + 1, 100, "%s", text + 1);
        to.length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(text));
    } else if (!parse_endpoint(text, &to)) {
        return errno = EINVAL, -1;
    }
    int fd = socket(to.address.any.sa_family, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return connect(fd, &to.address.any, to.length) == 0 ? fd : -1;
}

static int connect_often(char *text) {
    int count = 0;
    char *address = strchr(text, ' ');
    *address++ = '\0';
    for (int wanted = atoi(text); count < wanted && connect_to(address) >= 0;) count++;
    return count;
}

static void receive(int fd) {
    char bytes[256];
    ssize_t n = recv(fd, bytes, sizeof bytes - 1, 0);
    if (n < 0) {
        say_errno();
    } else {
        bytes[n] = '\0';
        fprintf(out, "%s\n", n == 0 ? "end" : bytes);
    }
}

static uint8_t pattern(size_t at) { return (uint8_t)(at * 131 + (at >> 9)); }

// Sends a pattern and takes it back, both at once; what comes must be what went.
static void echo(int fd, size_t total) {
    static uint8_t sent_bytes[4096], got_bytes[4096];
    size_t sent = 0, got = 0;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    while (got < total) {
        struct pollfd waiting = {fd, (short)(POLLIN | (sent < total ? POLLOUT : 0)), 0};
        if (poll(&waiting, 1, 30000) != 1) break;
        size_t length = total - sent < sizeof sent_bytes ? total - sent : sizeof sent_bytes;
        for (size_t i = 0; i < length; i++) sent_bytes[i] = pattern(sent + i);
        ssize_t n = length > 0 ? send(fd, sent_bytes, length, MSG_NOSIGNAL) : 0;
        if (n > 0) sent += (size_t)n;
        n = recv(fd, got_bytes, sizeof got_bytes, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN)) break;
        for (ssize_t i = 0; i < n; i++) {
            if (got_bytes[i] != pattern(got++)) return (void)fprintf(out, "wrong at %zu\n", got - 1);
        }
    }
    fprintf(out, "%zu\n", got);
}

// As much as is taken until nothing is for half a second.
static void push(int fd) {
    static uint8_t bytes[65536];
    size_t sent = 0;
    for (struct pollfd waiting = {fd, POLLOUT, 0}; poll(&waiting, 1, 500) == 1;) {
        ssize_t n = send(fd, bytes, sizeof bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0) break;
        sent += (size_t)n;
    }
    fprintf(out, "%zu\n", sent);
}

static int reset(int fd) {
    const struct linger at_once = {1, 0};
    return setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) != 0 ? -1 : close(fd);
}

static void show_words(const char *path) {
    char words[128];
    FILE *file = fopen(path, "r");
    if (file == NULL) return (void)say_errno();
    fprintf(out, "%s\n", fgets(words, sizeof words, file) == NULL ? "" : strtok(words, "\n"));
    fclose(file);
}

static int show(const char *path, const struct stat *status, int type, struct FTW *walk) {
    (void)type;
    (void)walk;
    const char *kind = S_ISDIR(status->st_mode) ? "d" : S_ISREG(status->st_mode) ? "f" : S_ISSOCK(status->st_mode) ? "s" : S_ISCHR(status->st_mode) ? "c" : "?";
    fprintf(out, "%s %s %o %u", path, kind, status->st_mode & 07777, status->st_uid);
    if (S_ISCHR(status->st_mode)) fprintf(out, " %u:%u", major(status->st_rdev), minor(status->st_rdev));
    fputc(';', out);
    return 0;
}

static void show_loopback(void) {
    struct ifreq request = {.ifr_name = "lo"};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    ioctl(fd, SIOCGIFFLAGS, &request);
    fprintf(out, "%s\n", request.ifr_flags & IFF_UP ? "up" : "down");
    close(fd);
}

static void act(char *command) {
    char *rest = strchr(command, ' ');
    if (rest == NULL) rest = command + strlen(command);
    else *rest++ = '\0';
    int fd = atoi(rest);
    const char *words = strchr(rest, ' ') == NULL ? "" : strchr(rest, ' ') + 1;
    if (strcmp(command, "connect") == 0) say_result(connect_to(rest));
    else if (strcmp(command, "connects") == 0) say_result(connect_often(rest));
    else if (strcmp(command, "send") == 0) say_result(send(fd, words, strlen(words), MSG_NOSIGNAL));
    else if (strcmp(command, "receive") == 0) receive(fd);
    else if (strcmp(command, "echo") == 0) echo(fd, strtoul(words, NULL, 10));
    else if (strcmp(command, "push") == 0) push(fd);
    else if (strcmp(command, "finish") == 0) say_result(shutdown(fd, SHUT_WR));
    else if (strcmp(command, "close") == 0) say_result(close(fd));
    else if (strcmp(command, "reset") == 0) say_result(reset(fd));
    else if (strcmp(command, "open") == 0) say_result(open(rest, O_RDWR | O_NOCTTY) < 0 ? -1 : 0);
    else if (strcmp(command, "words") == 0) show_words(rest);
    else if (strcmp(command, "chmod") == 0) say_result(chmod(rest, 0666));
    else if (strcmp(command, "unlink") == 0) say_result(unlink(rest));
    else if (strcmp(command, "mknod") == 0) say_result(mknod(rest, S_IFCHR | 0666, makedev(1, 3)));
    else if (strcmp(command, "fork") == 0) say_result(fork() == 0 ? pause() : 0);
    else if (strcmp(command, "loopback") == 0) show_loopback();
    else if (strcmp(command, "list") == 0) nftw(rest, show, 16, FTW_PHYS), fprintf(out, "\n");
    else fprintf(out, "?\n");
}

int main(void) {
    char line[256];
    FILE *in = fdopen(3, "r");
    out = fdopen(dup(3), "w");
    while (in != NULL && fgets(line, sizeof line, in) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        act(line);
        fflush(out);
    }
    return 7;
}
