#include "destination.h"
#include "spawner.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_DEPTH 16

static bool component_is_sound(const char *start, size_t length) {
    if (length == 0 || length > 255) return false;
    if (start[0] == '.' && (length == 1 || (length == 2 && start[1] == '.'))) return false;
    for (size_t i = 0; i < length; i++) {
        if (start[i] < 0x20 || start[i] > 0x7e) return false;
    }
    return true;
}

bool destination_is_sound(const char *path) {
    if (path[0] != '/' || strlen(path) > MAX_PATH) return false;
    int depth = 0;
    for (const char *rest = path; *rest == '/'; depth++) {
        size_t length = strcspn(++rest, "/");
        if (!component_is_sound(rest, length)) return false;
        rest += length;
    }
    return depth <= MAX_DEPTH;
}

// `at` is closed in every case.
static int enter_directory(int at, const char *name, struct ownership ownership) {
    int made = mkdirat(at, name, ownership.mode);
    if (made != 0 && errno != EEXIST) goto failed;
    int next = openat(at, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (next < 0) goto failed;
    if (made == 0 && fchownat(next, "", ownership.owner, ownership.owner, AT_EMPTY_PATH) != 0) {
        close(next);
        goto failed;
    }
    close(at);
    return next;
failed:;
    int problem = errno;
    close(at);
    errno = problem;
    return -1;
}

int open_parent(int root, const char *path, struct ownership ownership, const char **name) {
    int at = openat(root, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    const char *rest = path + 1;
    for (const char *slash; at >= 0 && (slash = strchr(rest, '/')) != NULL; rest = slash + 1) {
        char component[256];
        memcpy(component, rest, (size_t)(slash - rest));
        component[slash - rest] = '\0';
        at = enter_directory(at, component, ownership);
    }
    *name = rest;
    return at;
}

int make_directory(int root, const char *path, struct ownership ownership) {
    const char *name;
    int parent = open_parent(root, path, ownership, &name);
    return parent < 0 ? -1 : enter_directory(parent, name, ownership);
}
