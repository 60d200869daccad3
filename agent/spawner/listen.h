// Listening sockets that a service manager opened for the agent (sd_listen_fds(3)).
#pragma once

#define MAX_LISTEN 64       // one a scope
#define MAX_LISTEN_NAME 53  // <scope>.sock

struct listen_sockets {
    int count;
    int fds[MAX_LISTEN];
    char names[MAX_LISTEN * (MAX_LISTEN_NAME + 1) + 1]; // as LISTEN_FDNAMES
};

// Takes what LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES name. 0, also when there is nothing; -1 with a line in the log.
int take_listen_sockets(struct listen_sockets *sockets);
