// A character device that stands in for a virtio port: a pseudo-terminal without any line discipline, linked at the path
// given. What the test writes to standard input comes out of the device, and the other way round.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

static int copy(int from, int to) {
    char bytes[4096];
    ssize_t got = read(from, bytes, sizeof bytes);
    if (got <= 0) return -1;
    for (ssize_t done = 0, n; done < got; done += n) {
        if ((n = write(to, bytes + done, (size_t)(got - done))) < 0) return -1;
    }
    return 0;
}

int main(int argc, char **argv) {
    struct termios raw;
    int host = posix_openpt(O_RDWR | O_NOCTTY);
    if (argc != 2 || host < 0 || grantpt(host) != 0 || unlockpt(host) != 0) return 1;
    const char *name = ptsname(host);
    // Kept open, so that the device does not hang up while the agent has not opened it.
    int guest = name == NULL ? -1 : open(name, O_RDWR | O_NOCTTY);
    if (guest < 0 || tcgetattr(guest, &raw) != 0) return 1;
    cfmakeraw(&raw);
    if (tcsetattr(guest, TCSANOW, &raw) != 0 || symlink(name, argv[1]) != 0) return 1;
    for (;;) {
        struct pollfd waiting[] = {{STDIN_FILENO, POLLIN, 0}, {host, POLLIN, 0}};
        if (poll(waiting, 2, -1) < 0 && errno != EINTR) return 1;
        if (waiting[0].revents != 0 && copy(STDIN_FILENO, host) != 0) return 0;
        if ((waiting[1].revents & POLLIN) != 0 && copy(host, STDOUT_FILENO) != 0) return 0;
    }
}
