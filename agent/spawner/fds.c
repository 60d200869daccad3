#include "fds.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

union control {
    char bytes[CMSG_SPACE(MAX_PACKET_FDS * sizeof(int))];
    struct cmsghdr align;
};

int send_packet(int socket_fd, const char *bytes, size_t length, const int *fds, int count) {
    union control control = {0};
    struct iovec vector = {(void *)bytes, length};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    size_t size = sizeof(int) * (size_t)count;
    if (count > MAX_PACKET_FDS) return errno = EINVAL, -1;
    if (count > 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(size);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(size)};
        memcpy(CMSG_DATA(header), fds, size);
    }
    return sendmsg(socket_fd, &message, MSG_NOSIGNAL) == (ssize_t)length ? 0 : -1;
}

ssize_t receive_packet(int socket_fd, char *bytes, size_t capacity, int fds[MAX_PACKET_FDS], int *count) {
    union control control;
    struct iovec vector = {bytes, capacity};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    *count = 0;
    ssize_t length = recvmsg(socket_fd, &message, MSG_CMSG_CLOEXEC);
    struct cmsghdr *header = length < 0 ? NULL : CMSG_FIRSTHDR(&message);
    if (header == NULL || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) return length;
    *count = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    memcpy(fds, CMSG_DATA(header), sizeof(int) * (size_t)*count);
    return length;
}
