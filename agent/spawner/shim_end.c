#include "shim_end.h"
#include "relay.h"
#include "request.h"
#include "shim_root.h"

#include <signal.h>
#include <unistd.h>

#define TRIES 200
#define TRY_US 10000

static void release(struct spawner *spawner, unsigned id) {
    stop_relay(&spawner->shims[id].relay);
    unmount_shim_root(spawner, id); // what was delivered into it may be a credential
}

bool note_shim_end(struct spawner *spawner, const struct ending *ending) {
    for (unsigned id = 0; id < MAX_SHIMS; id++) {
        struct shim *shim = &spawner->shims[id];
        if (shim->state != SHIM_RUNNING || shim->pid != ending->pid) continue;
        shim->state = SHIM_ENDED;
        shim->wait_status = ending->status;
        release(spawner, id);
        log_line(LEVEL_WARNING "shim %u: ended, %s %d", id, ending->how, ending->code);
        return true;
    }
    return false;
}

void give_up_shim(struct spawner *spawner, unsigned id) {
    struct shim *shim = &spawner->shims[id];
    stop_relay(&shim->relay);
    if (shim->state == SHIM_RUNNING) {
        kill(shim->pid, SIGKILL);
    } else if (shim->state == SHIM_PREPARED) {
        shim->state = SHIM_FAILED;
        release(spawner, id);
    }
}

// The shim is the first process of its PID namespace: everything else in there ends with it.
void kill_shims(const struct spawner *spawner) {
    for (unsigned id = 0; id < MAX_SHIMS; id++) {
        const struct shim *shim = &spawner->shims[id];
        if (shim->state == SHIM_RUNNING) kill(shim->pid, SIGKILL);
        if (shim->relay.pid > 0) kill(shim->relay.pid, SIGKILL);
    }
}

enum outcome stop_shim(struct spawner *spawner, struct request *request, struct reply *reply) {
    unsigned id = read_u8(&request->body);
    if (!reader_ended(&request->body) || id >= MAX_SHIMS) return OUTCOME_BREACH;
    struct shim *shim = &spawner->shims[id];
    give_up_shim(spawner, id);
    for (int i = 0; i < TRIES; i++, usleep(TRY_US)) {
        reap_children(spawner);
        if (shim->state != SHIM_RUNNING && shim->relay.pid == 0) return OUTCOME_DONE;
    }
    return fail(reply, "shim %u: still ending", id);
}
