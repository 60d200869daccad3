// Stands in for the agent: whatever the test says over a Unix socket, it does with the spawner's socket on descriptor 3.
// Argument: the path to connect to. Commands and answers are u32 length | bytes, big-endian; an answer begins with u32 errno.
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define SPAWNER 3
#define CAPACITY (1 << 18)

static uint8_t command[CAPACITY], answer[CAPACITY];
static size_t answer_length;

static uint32_t get32(const uint8_t *bytes) {
    uint32_t value;
    memcpy(&value, bytes, 4);
    return ntohl(value);
}

static void put32(uint32_t value) {
    value = htonl(value);
    memcpy(answer + answer_length, &value, 4);
    answer_length += 4;
}

static void exactly(int fd, void *bytes, size_t length, int writing) {
    for (uint8_t *at = bytes; length > 0;) {
        ssize_t n = writing ? write(fd, at, length) : read(fd, at, length);
        if (n <= 0) exit(0); // the test is over
        at += n;
        length -= (size_t)n;
    }
}

// u32 count | count x u32 fd | packet
static void send_packet(const uint8_t *bytes, size_t length) {
    uint32_t count = get32(bytes);
    union {
        char bytes[CMSG_SPACE(8 * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec vector = {(void *)(bytes + 4 + 4 * count), length - 4 - 4 * count};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    if (count > 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(count * sizeof(int))};
        for (uint32_t i = 0; i < count; i++) {
            int fd = (int)get32(bytes + 4 + 4 * i);
            memcpy(CMSG_DATA(header) + i * sizeof(int), &fd, sizeof fd);
        }
    }
    if (sendmsg(SPAWNER, &message, MSG_NOSIGNAL) < 0) _exit(99);
}

// u32 count | count x u32 fd | packet
static void receive_packet(void) {
    static uint8_t bytes[CAPACITY / 2];
    char control[256] __attribute__((aligned(8)));
    struct iovec vector = {bytes, sizeof bytes};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(SPAWNER, &message, 0);
    struct cmsghdr *header = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    uint32_t count = header == NULL ? 0 : (uint32_t)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    put32(n > 0 ? 0 : EPIPE);
    put32(count);
    for (uint32_t i = 0; i < count; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
        put32((uint32_t)fd);
    }
    if (n > 0) memcpy(answer + answer_length, bytes, (size_t)n);
    answer_length += n > 0 ? (size_t)n : 0;
}

static void put_result(long result) {
    put32(result < 0 ? (uint32_t)errno : 0);
    put32(result < 0 ? 0 : (uint32_t)result);
}

static void read_fd(int fd) {
    ssize_t n = read(fd, answer + 4, 65536);
    put32(n < 0 ? (uint32_t)errno : 0);
    answer_length += n > 0 ? (size_t)n : 0;
}

static void send_from_child(const uint8_t *bytes, size_t length) {
    pid_t pid = fork();
    if (pid == 0) {
        send_packet(bytes, length);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    receive_packet();
}

// u8 keep the writing end open | bytes to write. Answers with both descriptors.
static void make_pipe(uint8_t keep, const uint8_t *bytes, size_t length) {
    int ends[2];
    if (pipe(ends) != 0 || write(ends[1], bytes, length) != (ssize_t)length) _exit(94);
    if (!keep) close(ends[1]);
    put32(0);
    put32((uint32_t)ends[0]);
    put32((uint32_t)ends[1]);
}

static void act(uint8_t kind, const uint8_t *bytes, size_t length) {
    switch (kind) {
    case 'C': send_packet(bytes, length); receive_packet(); break;
    case 'F': send_from_child(bytes, length); break;
    case 'W': put_result(write((int)get32(bytes), bytes + 4, length - 4)); break;
    case 'R': read_fd((int)get32(bytes)); break;
    case 'K': put_result(close((int)get32(bytes))); break;
    case 'P': put_result(syscall(SYS_pidfd_open, get32(bytes), 0)); break;
    case 'E': make_pipe(bytes[0], bytes + 1, length - 1); break;
    case 'X': _exit(bytes[0]);
    default: _exit(98);
    }
}

int main(int argc, char **argv) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (argc != 2 || strlen(argv[1]) >= sizeof address.sun_path) return 97;
    strcpy(address.sun_path, argv[1]);
    int test = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(test, (struct sockaddr *)&address, sizeof address) != 0) return 96;
    for (;;) {
        uint32_t length;
        exactly(test, &length, 4, 0);
        length = ntohl(length);
        if (length == 0 || length > sizeof command) return 95;
        exactly(test, command, length, 0);
        answer_length = 0;
        act(command[0], command + 1, length - 1);
        uint32_t sized = htonl((uint32_t)answer_length);
        exactly(test, &sized, 4, 1);
        exactly(test, answer, answer_length, 1);
    }
}
