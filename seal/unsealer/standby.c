#include "standby.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union control {
    struct cmsghdr header;
    uint8_t bytes[CMSG_SPACE(SINKS_MAX * sizeof(int))];
};

static bool heard; /* a packet came, or the end */

static ssize_t receive(struct msghdr *message)
{
    ssize_t got;

    do
        got = recvmsg(STDIN_FILENO, message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    heard = true;
    return got;
}

void hear_request(void)
{
    struct msghdr message = { 0 };

    if (!heard)
        (void)receive(&message);
}

int receive_input(uint8_t *buffer, size_t max, size_t *ret)
{
    struct iovec part = { .iov_base = buffer, .iov_len = max };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
    const ssize_t got = receive(&message);

    if (got < 0 || (message.msg_flags & MSG_TRUNC) != 0)
        return -1;
    *ret = (size_t)got;
    return 0;
}

/* Exactly as many descriptors as were asked for, all of them ends. More than have room are closed by the kernel. */
static bool take_sinks(struct msghdr *message, unsigned count, struct sinks *ret)
{
    const struct cmsghdr *rights = CMSG_FIRSTHDR(message);

    if ((message->msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || rights == NULL || rights->cmsg_level != SOL_SOCKET ||
        rights->cmsg_type != SCM_RIGHTS || rights->cmsg_len != CMSG_LEN(count * sizeof(int)))
        return false;
    memcpy(ret->fds, CMSG_DATA(rights), count * sizeof(int));
    ret->count = count;
    for (unsigned i = 0; i < count; i++) {
        if (!is_end(ret->fds[i]))
            return false;
    }
    return true;
}

bool receive_word(unsigned sinks, struct sinks *ret)
{
    union control control = { 0 };
    uint8_t byte;
    struct iovec part = { .iov_base = &byte, .iov_len = sizeof byte };
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes
    };

    printf("{\"kind\":\"waiting\"}\n");
    return fflush(stdout) == 0 && receive(&message) == 1 && take_sinks(&message, sinks, ret);
}
