// PID 1's first steps: file systems, console, name, variant.
#include "spawner.h"
#include "sysfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

struct place {
    const char *path;
    const char *type;
    unsigned long flags;
    const char *options;
};

#define QUIET (MS_NOSUID | MS_NODEV | MS_NOEXEC)

static const struct place PLACES[] = {
    {"/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755"},
    {"/proc", "proc", QUIET, NULL},
    {"/sys", "sysfs", QUIET, NULL},
    {"/sys/kernel/security", "securityfs", QUIET, NULL},
    {"/run", "tmpfs", QUIET, "mode=0755,size=25%"},
    {"/tmp", "tmpfs", QUIET, "mode=1777,size=25%"},
};

static bool is_mount_point(const char *path) {
    struct stat here, above;
    char parent[128];
    if (strlen(path) >= sizeof parent - 3) return false;
    strcpy(parent, path);
    strcat(parent, "/..");
    return stat(path, &here) == 0 && stat(parent, &above) == 0 && here.st_dev != above.st_dev;
}

static int mount_place(const struct place *place) {
    if (is_mount_point(place->path)) return 0; // the initrd moved it here
    if (mount(place->type, place->path, place->type, place->flags, place->options) == 0) return 0;
    log_line(LEVEL_ERROR "mount %s: %s", place->path, strerror(errno));
    return -1;
}

// Standard descriptors first: every log line goes there.
static void open_console(struct settings *settings) {
    int fd = open("/dev/console", O_RDWR | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) fd = open("/dev/kmsg", O_WRONLY);
    if (fd < 0) return; // there is nothing to log to
    for (int target = 0; target < 3; target++) dup2(fd, target);
    if (fd > 2) close(fd);
    int output = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
    if (output >= 0) settings->output = output;
}

int boot_mounts(struct settings *settings) {
    int result = 0;
    if (mount_place(&PLACES[0]) != 0) return -1;
    open_console(settings);
    for (size_t i = 1; i < sizeof PLACES / sizeof PLACES[0]; i++) result |= mount_place(&PLACES[i]);
    // Workloads see no process of others; the agent may (it watches its shims).
    if (mount(NULL, "/proc", NULL, MS_REMOUNT | QUIET, "hidepid=invisible,gid=990") != 0) {
        log_line(LEVEL_WARNING "/proc hidepid: %s", strerror(errno));
        result = -1;
    }
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) result = -1;
    if (sethostname("ironclaw", 8) != 0) result = -1;
    return result;
}

// The last value of `key` on the measured command line; NULL when it is not there.
static const char *boot_value(const char *key, char *text, size_t size) {
    const char *value = NULL;
    if (!read_line("/proc/cmdline", text, size)) return NULL;
    char *rest = text;
    for (char *word = strsep(&rest, " "); word != NULL; word = strsep(&rest, " ")) {
        if (strncmp(word, key, strlen(key)) == 0) value = word + strlen(key);
    }
    return value;
}

enum variant boot_variant(void) {
    char text[4096];
    const char *value = boot_value("ironclaw.variant=", text, sizeof text);
    if (value == NULL) return VARIANT_RELEASE;
    return strcmp(value, "demo") == 0 ? VARIANT_DEMO : strcmp(value, "dev") == 0 ? VARIANT_DEV : VARIANT_RELEASE;
}

const char *boot_log(void) {
    static char text[4096];
    return boot_value("ironclaw.log=", text, sizeof text);
}
