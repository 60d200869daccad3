// The table of what the agent may ask, and one packet's way through it.
#include "request.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum outcome fail(struct reply *reply, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reply->problem, sizeof reply->problem, format, arguments);
    va_end(arguments);
    return OUTCOME_FAILED;
}

static enum outcome cap_as_asked(struct spawner *spawner, struct request *request, struct reply *reply) {
    (void)reply;
    char reason[201];
    read_text(&request->body, reason, sizeof reason);
    if (!reader_ended(&request->body)) return OUTCOME_BREACH;
    for (char *c = reason; *c != '\0'; c++) {
        if (*c < 0x20 || *c > 0x7e) *c = '?';
    }
    cap_and_reboot(spawner, EXIT_ASKED, reason);
}

static enum outcome begin_serving(struct spawner *spawner, struct request *request, struct reply *reply) {
    if (!reader_ended(&request->body)) return OUTCOME_BREACH;
    spawner->phase = PHASE_SERVING; // whether they start or not: nothing of the launch may be asked for any more
    if (!spawner->settings.service) forbid_user_namespaces();
    int count = start_workloads(spawner, reply->problem, sizeof reply->problem);
    if (count < 0) return OUTCOME_FAILED;
    write_u16(&reply->body, (uint16_t)count);
    return OUTCOME_DONE;
}

// Keep in step with the table in agent/SPAWNER.md. "How often" is the handlers' business where it is per shim id.
static const struct {
    uint8_t op;
    unsigned phases;
    bool takes_fd;
    enum outcome (*handle)(struct spawner *, struct request *, struct reply *);
} TABLE[] = {
    {1, PHASE_LAUNCH, false, prepare_shim},
    {2, PHASE_LAUNCH, false, start_shim},
    {3, PHASE_LAUNCH | PHASE_SERVING, true, peer_exe},
    {4, PHASE_LAUNCH | PHASE_SERVING, false, shim_status},
    {5, PHASE_LAUNCH | PHASE_SERVING, false, cap_as_asked},
    {6, PHASE_LAUNCH, false, begin_serving},
    {7, PHASE_LAUNCH, true, open_state},
    {8, PHASE_LAUNCH | PHASE_SERVING, false, stop_shim},
};

static enum outcome dispatch(struct spawner *spawner, uint8_t op, struct request *request, struct reply *reply) {
    for (size_t i = 0; i < sizeof TABLE / sizeof TABLE[0]; i++) {
        if (TABLE[i].op != op) continue;
        bool permitted = (TABLE[i].phases & spawner->phase) != 0 && TABLE[i].takes_fd == (request->fd >= 0);
        return permitted ? TABLE[i].handle(spawner, request, reply) : OUTCOME_BREACH;
    }
    return OUTCOME_BREACH;
}

struct packet {
    ssize_t length;
    int fd_count;
    int fd; // the first one; all are closed by the caller's close of `fd` or here
    pid_t sender;
    bool truncated;
};

static void take_fds(struct packet *packet, struct cmsghdr *header) {
    int count = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    for (int i = 0; i < count; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(header) + (size_t)i * sizeof fd, sizeof fd);
        if (packet->fd_count++ == 0) packet->fd = fd;
        else close(fd);
    }
}

static void take_sender(struct packet *packet, struct cmsghdr *header) {
    struct ucred credentials;
    memcpy(&credentials, CMSG_DATA(header), sizeof credentials);
    packet->sender = credentials.pid;
}

static struct packet receive(int socket_fd, uint8_t *bytes, size_t capacity) {
    char control[512] __attribute__((aligned(8)));
    struct iovec vector = {bytes, capacity};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct packet packet = {.fd = -1};
    do packet.length = recvmsg(socket_fd, &message, MSG_CMSG_CLOEXEC);
    while (packet.length < 0 && errno == EINTR);
    if (packet.length < 0) return packet;
    packet.truncated = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET) continue;
        if (header->cmsg_type == SCM_RIGHTS) take_fds(&packet, header);
        if (header->cmsg_type == SCM_CREDENTIALS) take_sender(&packet, header);
    }
    return packet;
}

static int send_reply(int socket_fd, uint8_t op, enum outcome outcome, const struct reply *reply) {
    uint8_t head[2] = {op, outcome == OUTCOME_DONE ? 0 : 1};
    char control[CMSG_SPACE(sizeof reply->fds)] __attribute__((aligned(8))) = {0};
    struct iovec vectors[2] = {{head, sizeof head}, {reply->body.bytes, reply->body.length}};
    if (outcome != OUTCOME_DONE) vectors[1] = (struct iovec){(void *)reply->problem, strlen(reply->problem)};
    struct msghdr message = {.msg_iov = vectors, .msg_iovlen = 2};
    if (reply->fd_count > 0) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)reply->fd_count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)reply->fd_count);
        memcpy(CMSG_DATA(header), reply->fds, sizeof(int) * (size_t)reply->fd_count);
    }
    return sendmsg(socket_fd, &message, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

static _Noreturn void lose_agent(const struct spawner *spawner) {
    cap_and_reboot(spawner, EXIT_AGENT_LOST, "the agent closed its socket");
}

static enum outcome answer(struct spawner *spawner, const struct packet *packet, const uint8_t *bytes) {
    static uint8_t body[MAX_MESSAGE - 2];
    if (packet->truncated || packet->length > MAX_MESSAGE || packet->fd_count > 1) return OUTCOME_BREACH;
    if (packet->sender != spawner->agent) return OUTCOME_BREACH;
    struct request request = {.body = {.bytes = bytes + 1, .length = (size_t)packet->length - 1}, .fd = packet->fd};
    struct reply reply = {.body = {.bytes = body, .capacity = sizeof body}};
    enum outcome outcome = dispatch(spawner, bytes[0], &request, &reply);
    if (outcome == OUTCOME_BREACH) return outcome;
    if (outcome == OUTCOME_DONE && reply.body.failed) outcome = fail(&reply, "reply: too long");
    int sent = send_reply(spawner->agent_socket, bytes[0], outcome, &reply);
    if (sent != 0 && (errno == EPIPE || errno == ECONNRESET)) lose_agent(spawner); // it ended while this was done for it
    for (int i = 0; i < reply.fd_count; i++) close(reply.fds[i]);
    return sent == 0 ? OUTCOME_DONE : OUTCOME_BREACH; // an agent that does not take its replies is no agent
}

enum outcome serve_request(struct spawner *spawner) {
    static uint8_t bytes[MAX_MESSAGE + 1];
    struct packet packet = receive(spawner->agent_socket, bytes, sizeof bytes);
    if (packet.length <= 0) lose_agent(spawner);
    enum outcome outcome = answer(spawner, &packet, bytes);
    if (packet.fd >= 0) close(packet.fd);
    return outcome;
}
