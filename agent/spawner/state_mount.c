#include "state_volume.h"
#include "state_format.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#define MOUNT_POINT "/run/ironclaw/state"
#define ID_FILE "volume-id"

// The first and the last sector: where one of them authenticates the key is the right one, and what is wrong elsewhere is damage.
static enum outcome authenticate(const struct opening *opening, const char *node) {
    static uint8_t sector[STATE_BLOCK] __attribute__((aligned(STATE_BLOCK)));
    static const off_t PLACES[] = {0, STATE_VOLUME_BYTES - STATE_BLOCK};
    bool authentic = false;
    int fd = open(node, O_RDONLY | O_DIRECT | O_CLOEXEC); // direct: only so the error says that it was the tag
    if (fd < 0) return damaged(opening, node);
    for (size_t i = 0; i < 2; i++) authentic |= pread(fd, sector, sizeof sector, PLACES[i]) >= 0 || errno != EILSEQ;
    close(fd);
    return authentic ? OUTCOME_DONE : fail(opening->reply, "state-foreign: nothing on it authenticates");
}

// A mount that nobody sees yet, or -1.
static int mount_unseen(const char *node) {
    int mounted = -1, fs = fsopen("ext4", FSOPEN_CLOEXEC);
    if (fs < 0) return -1;
    if (fsconfig(fs, FSCONFIG_SET_STRING, "source", node, 0) == 0 && fsconfig(fs, FSCONFIG_SET_STRING, "errors", "remount-ro", 0) == 0 &&
        fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0) {
        mounted = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOATIME);
    }
    int problem = errno;
    close(fs);
    errno = problem;
    return mounted;
}

static int write_id(const struct opening *opening, int root) {
    uid_t agent = opening->spawner->settings.agent_uid;
    int fd = openat(root, ID_FILE, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400);
    if (fd < 0) return -1;
    bool written = write(fd, opening->header.id, VOLUME_ID_SIZE) == VOLUME_ID_SIZE && fchown(fd, agent, agent) == 0;
    close(fd);
    return written && fchown(root, agent, agent) == 0 && fchmod(root, 0700) == 0 ? syncfs(root) : -1;
}

static bool has_id(const struct opening *opening, int root) {
    uint8_t id[VOLUME_ID_SIZE + 1];
    int fd = openat(root, ID_FILE, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC); // the directory is the agent's
    if (fd < 0) return false;
    ssize_t n = read(fd, id, sizeof id);
    close(fd);
    return n == VOLUME_ID_SIZE && memcmp(id, opening->header.id, VOLUME_ID_SIZE) == 0;
}

static enum outcome finish_format(const struct opening *opening, int root) {
    uint8_t block[STATE_BLOCK];
    if (write_id(opening, root) != 0) return damaged(opening, ID_FILE);
    encode_state_header(&opening->header, block);
    return write_blocks(opening->disk, block, sizeof block) == 0 ? OUTCOME_DONE : damaged(opening, "header");
}

static enum outcome settle_id(const struct opening *opening, int mounted) {
    int root = openat(mounted, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0) return damaged(opening, "root");
    enum outcome outcome = OUTCOME_DONE;
    if (opening->format) outcome = finish_format(opening, root);
    else if (!has_id(opening, root)) outcome = fail(opening->reply, "state-damaged: " ID_FILE ": not that of the header");
    close(root);
    return outcome;
}

// By descriptor: the mount point lies in a directory of the agent's, who could turn a name elsewhere.
static int attach(int mounted) {
    if (mkdir(MOUNT_POINT, 0700) != 0 && errno != EEXIST) return -1;
    int place = open(MOUNT_POINT, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (place < 0) return -1;
    int result = move_mount(mounted, "", place, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
    int problem = errno;
    close(place);
    errno = problem;
    return result;
}

enum outcome mount_volume(const struct opening *opening, const char *node) {
    enum outcome outcome = authenticate(opening, node);
    if (outcome != OUTCOME_DONE) return outcome;
    int mounted = mount_unseen(node);
    if (mounted < 0) return damaged(opening, "mount");
    outcome = settle_id(opening, mounted);
    if (outcome == OUTCOME_DONE && attach(mounted) != 0) outcome = damaged(opening, MOUNT_POINT);
    close(mounted); // a mount that was not attached ends here
    return outcome;
}
