// One short packet over a SOCK_SEQPACKET pair, with descriptors.
#pragma once

#include <sys/types.h>

#define MAX_PACKET_FDS 8

// 0, or -1 with errno.
int send_packet(int socket_fd, const char *bytes, size_t length, const int *fds, int count);
// The packet's length, 0 at the end, -1 with errno. `*count` says how many descriptors came; they are the caller's.
ssize_t receive_packet(int socket_fd, char *bytes, size_t capacity, int fds[MAX_PACKET_FDS], int *count);
