// Device nodes by role instead of by number: there is no udev.
#include "spawner.h"
#include "sysfile.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PORT_CLASS "/sys/class/virtio-ports"
#define PORT_LINKS "/dev/virtio-ports"
#define RUN "/run/ironclaw"
#define EVENT_LOG "/sys/kernel/security/tpm0/binary_bios_measurements"
#define POLLS 250
#define POLL_US 20000

static int give(const char *path, uid_t owner, gid_t group, mode_t mode) {
    if (chown(path, owner, group) == 0 && chmod(path, mode) == 0) return 0;
    log_line(LEVEL_ERROR "%s: %s", path, strerror(errno));
    return -1;
}

static int make_owned_directory(const char *path, uid_t owner) {
    if (mkdir(path, 0755) != 0 && errno != EEXIST) {
        log_line(LEVEL_ERROR "%s: %s", path, strerror(errno));
        return -1;
    }
    return give(path, owner, owner, 0755);
}

static bool name_is_plain(const char *name) {
    return *name != '\0' && strlen(name) < 64 && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789.-") == strlen(name);
}

// Whom a port belongs to, by its name. Root for anything unknown.
static uid_t port_owner(const char *name) {
    if (strcmp(name, "ironclaw.control") == 0 || strcmp(name, "ironclaw.report") == 0) return AGENT_UID;
    if (strncmp(name, "workload.", 9) != 0) return 0;
    char *end;
    unsigned long uid = strtoul(name + 9, &end, 10);
    return *end == '\0' && uid >= WORKLOAD_UID_MIN && uid < 60000 ? (uid_t)uid : 0;
}

// Calls `visit` for every port that has a name. The number of ports seen.
static int each_port(void (*visit)(const char *device, const char *name, void *context), void *context) {
    DIR *directory = opendir(PORT_CLASS);
    int count = 0;
    if (directory == NULL) return 0;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        char path[512], name[128];
        snprintf(path, sizeof path, PORT_CLASS "/%s/name", entry->d_name);
        if (entry->d_name[0] == '.' || !read_line(path, name, sizeof name) || !name_is_plain(name)) continue;
        visit(entry->d_name, name, context);
        count++;
    }
    closedir(directory);
    return count;
}

static void note_essential(const char *device, const char *name, void *context) {
    (void)device;
    unsigned *seen = context;
    if (strcmp(name, "ironclaw.control") == 0) *seen |= 1;
    if (strcmp(name, "ironclaw.report") == 0) *seen |= 2;
}

static void link_port(const char *device, const char *name, void *context) {
    (void)context;
    char node[512], link[512];
    uid_t owner = port_owner(name);
    snprintf(node, sizeof node, "/dev/%s", device);
    snprintf(link, sizeof link, PORT_LINKS "/%s", name);
    if (symlink(node, link) != 0) log_line(LEVEL_WARNING "%s: %s", link, strerror(errno));
    if (give(node, owner, owner, 0600) == 0) log_line("port %s is %s", name, node);
}

// Ports appear one by one while the host announces them: wait for the two that the agent needs, then until no more come.
static void link_ports(void) {
    int before = -1;
    for (int i = 0; i < POLLS; i++) {
        unsigned seen = 0;
        int count = each_port(note_essential, &seen);
        if (seen == 3 && count == before) break;
        before = count;
        usleep(POLL_US);
    }
    if (mkdir(PORT_LINKS, 0755) != 0 && errno != EEXIST) log_line(LEVEL_WARNING PORT_LINKS ": %s", strerror(errno));
    if (each_port(link_port, NULL) == 0) log_line(LEVEL_WARNING "no virtio ports");
}

static int give_tpm(void) {
    give("/dev/tpm0", 0, 0, 0600);
    return give("/dev/tpmrm0", AGENT_UID, AGENT_UID, 0600);
}

struct disk {
    const char *serial; // what its serial begins with
    uid_t owner;
    gid_t group;
    mode_t mode;
    const char *link; // for the agent; NULL for none
    char node[300];
};

static bool is_disk(const char *name, const struct disk *disk) {
    char path[512], serial[64];
    snprintf(path, sizeof path, "/sys/block/%s/serial", name);
    return read_line(path, serial, sizeof serial) && strncmp(serial, disk->serial, strlen(disk->serial)) == 0;
}

static bool hand_out(struct disk *disk, const char *name) {
    snprintf(disk->node, sizeof disk->node, "/dev/%s", name);
    return give(disk->node, disk->owner, disk->group, disk->mode) == 0 && (disk->link == NULL || symlink(disk->node, disk->link) == 0);
}

// The node, or "". The spawner itself uses the node, never the link: the link stands in a directory of the agent's, and an
// agent that turned it elsewhere would have root read for it.
static const char *find_disk(struct disk *disk) {
    DIR *directory = opendir("/sys/block");
    bool found = false;
    for (struct dirent *entry; directory != NULL && !found && (entry = readdir(directory)) != NULL;) {
        found = strncmp(entry->d_name, "vd", 2) == 0 && is_disk(entry->d_name, disk) && hand_out(disk, entry->d_name);
    }
    if (directory != NULL) closedir(directory);
    log_line("%s: %s", disk->serial, found ? disk->node : "no such disk"); // without one the agent says so in its report
    return found ? disk->node : "";
}

// Securityfs is root's; the agent needs the log to put it into evidence, where the quote vouches for it.
static void copy_event_log(void) {
    static char buffer[65536];
    int from = open(EVENT_LOG, O_RDONLY | O_CLOEXEC);
    int to = open(RUN "/firmware-event-log", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
    ssize_t n = -1;
    while (from >= 0 && to >= 0 && (n = read(from, buffer, sizeof buffer)) > 0) {
        if (write(to, buffer, (size_t)n) != n) n = -2;
        if (n < 0) break;
    }
    if (n != 0) log_line(LEVEL_WARNING "firmware event log: %s", strerror(errno));
    if (from >= 0) close(from);
    if (to >= 0) close(to);
}

int prepare_devices(struct settings *settings) {
    static struct disk cabinet = {"cabinet", 0, AGENT_UID, 0440, RUN "/cabinet", ""};
    static struct disk store = {"store", AGENT_UID, AGENT_UID, 0600, RUN "/store", ""};
    static struct disk state = {"state", 0, 0, 0600, NULL, ""};
    if (make_owned_directory(RUN, AGENT_UID) != 0 || make_owned_directory(RUN "/scopes", AGENT_UID) != 0) return -1;
    copy_event_log();
    settings->cabinet = find_disk(&cabinet);
    settings->state = find_disk(&state);
    settings->store = find_disk(&store);
    link_ports();
    return give_tpm();
}
