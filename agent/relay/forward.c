// Bytes from one socket to the other, both ways, unread. One thread, fixed memory.
#include "relay.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

// One direction. It is filled again only when it is empty: who cannot take bytes is not read for.
struct flow {
    bool ended;     // there is no more to read
    bool passed_on; // and the other side knows
    size_t start;
    size_t length;
    uint8_t bytes[BUFFER_SIZE];
};

struct connection {
    bool used;
    bool connecting;
    short seen; // of the near side: POLLRDHUP, it says no more, and POLLHUP, it takes no more either
    int near; // the shim's
    int far;  // the target's
    struct target *target;
    uint64_t deadline; // of the connecting, or of a half-closed connection's silence; 0 for none
    struct flow out;
    struct flow back;
};

static struct connection connections[MAX_CONNECTIONS];

static uint64_t now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

static void note_problem(struct target *target, int problem) {
    if (problem != 0 && problem != target->last_problem) say(LEVEL_WARNING "%s: %s", target->name, strerror(problem));
    target->last_problem = problem;
}

static void set_option(int fd, int level, int option, int value) {
    // A Unix socket knows none of these; on TCP they are for speed and for finding a dead peer, not for safety.
    if (setsockopt(fd, level, option, &value, sizeof value) != 0) return;
}

static void set_options(int fd) {
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1); // a request of a few bytes waits for nobody
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 60);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 6);
}

static void close_end(int fd, bool broken) {
    const struct linger at_once = {1, 0};
    if (fd < 0) return;
    // A reset stays one: a cut connection must not look like a finished one.
    if (broken && setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) != 0) say(LEVEL_WARNING "linger: %s", strerror(errno));
    close(fd);
}

static void end_connection(struct connection *connection, bool broken) {
    close_end(connection->near, broken);
    close_end(connection->far, broken);
    explicit_bzero(connection, sizeof *connection);
}

static struct connection *free_connection(void) {
    for (size_t i = 0; i < MAX_CONNECTIONS; i++) {
        if (!connections[i].used) return &connections[i];
    }
    return NULL;
}

// Of those that one side has finished, the one that has been silent for longest. NULL when there is none.
static struct connection *dispensable_connection(void) {
    struct connection *found = NULL;
    for (size_t i = 0; i < MAX_CONNECTIONS; i++) {
        struct connection *connection = &connections[i];
        if (!connection->used || connection->connecting || connection->deadline == 0) continue;
        if (found == NULL || connection->deadline < found->deadline) found = connection;
    }
    return found;
}

static struct connection *room_for_one(void) {
    struct connection *connection = free_connection();
    return connection != NULL ? connection : dispensable_connection();
}

static void begin(struct connection *connection, int near, struct target *target) {
    const struct endpoint *to = &target->endpoint;
    connection->used = true;
    connection->near = near;
    connection->target = target;
    connection->far = socket(to->address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->far >= 0) set_options(connection->far);
    set_options(near);
    int result = connection->far < 0 ? -1 : connect(connection->far, &to->address.any, to->length);
    connection->connecting = result != 0;
    connection->deadline = result != 0 ? now_ms() + CONNECT_PATIENCE_MS : 0;
    if (result == 0 || errno == EINPROGRESS) return;
    note_problem(target, errno);
    end_connection(connection, true);
}

static void accept_one(int listener, struct target *target) {
    struct connection *connection = room_for_one();
    int near = connection == NULL ? -1 : accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (near < 0) return;
    // A target that never closes would otherwise keep the place of each connection that the shim has closed.
    if (connection->used) end_connection(connection, true);
    begin(connection, near, target);
}

static bool would_block(void) { return errno == EAGAIN || errno == EINTR; }

// False when the connection is broken.
static bool move(int from, int to, struct flow *flow) {
    if (flow->length == 0 && !flow->ended) {
        ssize_t n = recv(from, flow->bytes, sizeof flow->bytes, 0);
        if (n < 0) return would_block();
        flow->start = 0;
        flow->length = (size_t)n;
        flow->ended = n == 0;
    }
    if (flow->length > 0) {
        ssize_t n = send(to, flow->bytes + flow->start, flow->length, MSG_NOSIGNAL);
        if (n < 0) return would_block();
        flow->start += (size_t)n;
        flow->length -= (size_t)n;
        // A daemon's protocol may carry the PIN in clear: what was passed on is not kept.
        if (flow->length == 0) explicit_bzero(flow->bytes, flow->start);
    }
    if (flow->ended && !flow->passed_on) {
        if (shutdown(to, SHUT_WR) != 0) return false;
        flow->passed_on = true;
    }
    return true;
}

static bool is_connected(struct connection *connection) {
    int problem = 0;
    socklen_t size = sizeof problem;
    if (getsockopt(connection->far, SOL_SOCKET, SO_ERROR, &problem, &size) != 0) problem = errno;
    note_problem(connection->target, problem);
    connection->connecting = false;
    connection->deadline = 0;
    return problem == 0;
}

static bool is_empty(const struct flow *flow) { return flow->length == 0 && !flow->ended; }

static bool is_half_closed(const struct connection *connection) {
    return connection->out.passed_on || connection->back.passed_on || connection->seen != 0;
}

static void serve(struct connection *connection, short near, short far) {
    if (connection->connecting && far != 0 && !is_connected(connection)) return end_connection(connection, true);
    if (connection->connecting || (near | far) == 0) return;
    // Not left to a read: nobody reads for a target that takes nothing.
    if ((near & POLLERR) != 0 && !is_empty(&connection->out)) return end_connection(connection, true);
    connection->seen |= near & (POLLRDHUP | POLLHUP);
    // Whatever is no news of the other direction (POLLERR and POLLHUP are of both).
    bool whole = ((near & ~POLLOUT) | (far & ~POLLIN)) == 0 || move(connection->near, connection->far, &connection->out);
    whole = whole && (((far & ~POLLOUT) | (near & ~POLLIN)) == 0 || move(connection->far, connection->near, &connection->back));
    // All that the near side has said is passed on, and nobody is there for the answer.
    bool over = connection->out.passed_on && (connection->back.passed_on || (connection->seen & POLLHUP) != 0);
    if (!whole || over) return end_connection(connection, !whole);
    connection->deadline = is_half_closed(connection) ? now_ms() + HALF_CLOSED_PATIENCE_MS : 0;
}

static struct pollfd waiting_for(int fd, bool to_read, bool to_write) {
    short events = (short)((to_read ? POLLIN : 0) | (to_write ? POLLOUT : 0));
    return (struct pollfd){events == 0 ? -1 : fd, events, 0}; // an end that nothing is wanted of would only wake us
}

// While nothing is wanted of it too: its end shows, which no read finds as long as the target takes nothing. Its end lasts, so that it is
// looked for once.
static struct pollfd waiting_for_near(const struct connection *connection) {
    struct pollfd entry = waiting_for(connection->near, is_empty(&connection->out), connection->back.length > 0);
    if ((connection->seen & POLLHUP) != 0) return entry;
    return (struct pollfd){connection->near, (short)(entry.events | (POLLRDHUP & ~connection->seen)), 0};
}

// Two entries for each connection.
static void list_connections(struct pollfd *list) {
    for (size_t i = 0; i < MAX_CONNECTIONS; i++, list += 2) {
        const struct connection *connection = &connections[i];
        bool open = connection->used && !connection->connecting;
        list[0] = open ? waiting_for_near(connection) : waiting_for(-1, false, false);
        list[1] = waiting_for(connection->far, open && is_empty(&connection->back),
                              connection->used && (connection->connecting || connection->out.length > 0));
    }
}

static int time_left(void) {
    uint64_t next = UINT64_MAX, now = now_ms();
    for (size_t i = 0; i < MAX_CONNECTIONS; i++) {
        if (connections[i].used && connections[i].deadline != 0 && connections[i].deadline < next) next = connections[i].deadline;
    }
    return next == UINT64_MAX ? -1 : next <= now ? 0 : (int)(next - now);
}

static void end_overdue(void) {
    uint64_t now = now_ms();
    for (size_t i = 0; i < MAX_CONNECTIONS; i++) {
        struct connection *connection = &connections[i];
        if (!connection->used || connection->deadline == 0 || connection->deadline > now) continue;
        if (connection->connecting) note_problem(connection->target, ETIMEDOUT);
        end_connection(connection, true);
    }
}

_Noreturn void forward(struct target *targets, size_t count) {
    static struct pollfd waiting[MAX_ENDPOINTS + 2 * MAX_CONNECTIONS];
    struct pollfd *of_connections = waiting + MAX_ENDPOINTS;
    for (bool said_full = false;;) {
        bool full = free_connection() == NULL;
        if (full && !said_full) say(LEVEL_WARNING "all %d connections are in use", MAX_CONNECTIONS);
        said_full = said_full || full;
        bool room = room_for_one() != NULL;
        for (size_t i = 0; i < MAX_ENDPOINTS; i++) waiting[i] = waiting_for(FIRST_LISTENER + (int)i, i < count && room, false);
        list_connections(of_connections);
        if (poll(waiting, sizeof waiting / sizeof waiting[0], time_left()) < 0 && errno != EINTR) _exit(4);
        for (size_t i = 0; i < MAX_CONNECTIONS; i++) {
            if (connections[i].used) serve(&connections[i], of_connections[2 * i].revents, of_connections[2 * i + 1].revents);
        }
        for (size_t i = 0; i < count; i++) {
            if (waiting[i].revents != 0) accept_one(FIRST_LISTENER + (int)i, &targets[i]);
        }
        end_overdue();
    }
}
