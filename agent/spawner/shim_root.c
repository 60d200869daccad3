// PREPARE_SHIM: fill a private root with exactly the bytes that are hashed on the way.
#include "shim_root.h"
#include "copy.h"
#include "destination.h"
#include "request.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FLAG_WRITABLE 1
#define FLAG_EXECUTABLE 2
#define FILE_LIMIT (64ull << 20)
#define ROOT_OPTIONS "mode=0755,size=128m,nr_inodes=4096"
#define AREA_OPTIONS "mode=0755,size=16m,nr_inodes=4096"

struct placed_file {
    uint8_t flags;
    uint8_t source;
    char destination[MAX_PATH + 1];
    char path[MAX_PATH + 1];
    uint64_t offset;
    uint64_t length;
    uint8_t digest[DIGEST_SIZE]; // of the bytes that were written, and how many
    uint64_t size;
};

struct places {
    int root;
    int area;
    int cabinet;
};

void shim_root_path(const struct spawner *spawner, unsigned id, char *path) {
    snprintf(path, MAX_PATH, "%s/%u", spawner->settings.run_dir, id);
}

void writable_area_path(const struct spawner *spawner, unsigned id, char *path) {
    snprintf(path, MAX_PATH, "%s/%u.rw", spawner->settings.run_dir, id);
}

void node_area_path(const struct spawner *spawner, unsigned id, char *path) {
    snprintf(path, MAX_PATH, "%s/%u.dev", spawner->settings.run_dir, id);
}

void unmount_shim_root(const struct spawner *spawner, unsigned id) {
    static void (*const PATHS[])(const struct spawner *, unsigned, char *) = {shim_root_path, writable_area_path, node_area_path};
    for (size_t i = 0; i < sizeof PATHS / sizeof PATHS[0]; i++) {
        char path[MAX_PATH];
        PATHS[i](spawner, id, path);
        if (umount2(path, MNT_DETACH) == 0) rmdir(path);
    }
}

static void read_entry(struct reader *body, struct placed_file *entry) {
    memset(entry, 0, sizeof *entry);
    entry->flags = read_u8(body);
    read_text(body, entry->destination, sizeof entry->destination);
    entry->source = read_u8(body);
    if (entry->source == 0) {
        read_text(body, entry->path, sizeof entry->path);
    } else if (entry->source == 1) {
        entry->offset = read_u64(body);
        entry->length = read_u64(body);
    } else {
        body->failed = true;
    }
    if (entry->flags > FLAG_EXECUTABLE) body->failed = true; // unknown bits, or writable and executable at once
}

static struct placed_file *read_entries(struct reader *body, uint16_t *count) {
    *count = read_u16(body);
    if (body->failed || *count == 0 || *count > MAX_SHIM_FILES) return NULL;
    struct placed_file *entries = calloc(*count, sizeof *entries);
    if (entries == NULL) return NULL;
    for (uint16_t i = 0; i < *count; i++) read_entry(body, &entries[i]);
    if (reader_ended(body)) return entries;
    free(entries);
    return NULL;
}

static int mount_tmpfs(const char *path, unsigned long flags, const char *options) {
    if (mkdir(path, 0700) != 0 || mount("tmpfs", path, "tmpfs", flags, options) != 0) return -1;
    return open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static int open_places(const struct spawner *spawner, unsigned id, struct places *places) {
    char root[MAX_PATH], area[MAX_PATH];
    shim_root_path(spawner, id, root);
    writable_area_path(spawner, id, area);
    // The directory above is the barrier: root only, so that nobody else ever sees a root that is being filled.
    if (mkdir(spawner->settings.run_dir, 0700) != 0 && errno != EEXIST) return -1;
    places->root = mount_tmpfs(root, MS_NOSUID | MS_NODEV, ROOT_OPTIONS);
    places->area = mount_tmpfs(area, MS_NOSUID | MS_NODEV | MS_NOEXEC, AREA_OPTIONS);
    places->cabinet = open(spawner->settings.cabinet, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    return places->root < 0 || places->area < 0 ? -1 : 0; // without a cabinet only root files can be had
}

static void close_places(const struct places *places) {
    if (places->root >= 0) close(places->root);
    if (places->area >= 0) close(places->area);
    if (places->cabinet >= 0) close(places->cabinet);
}

// A file of the root file system that anybody may read: the spawner's root privilege gives the agent nothing to read that
// it could not read itself. In the measured image no other mount can be reached, so dm-verity stands behind every byte.
static int open_root_file(const struct spawner *spawner, const char *path) {
    struct open_how how = {
        .flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
        .resolve = RESOLVE_NO_MAGICLINKS | (spawner->settings.service ? 0 : RESOLVE_NO_XDEV),
    };
    if (path[0] != '/') return errno = EINVAL, -1;
    int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
    struct stat status;
    if (fd < 0) return -1;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && (status.st_mode & S_IROTH) != 0) return fd;
    close(fd);
    return errno = EACCES, -1;
}

static int copy_source(const struct spawner *spawner, const struct places *places, const struct placed_file *entry, int to,
                       uint8_t digest[DIGEST_SIZE], uint64_t *size) {
    if (entry->source == 1) {
        if (places->cabinet < 0) return errno = ENODEV, -1;
        if (entry->length > FILE_LIMIT || entry->offset > INT64_MAX - FILE_LIMIT) return errno = EFBIG, -1;
        return copy_hashing(spawner, places->cabinet, entry->offset, entry->length, FILE_LIMIT, to, digest, size);
    }
    int from = open_root_file(spawner, entry->path);
    if (from < 0) return -1;
    int result = copy_hashing(spawner, from, 0, UINT64_MAX, FILE_LIMIT, to, digest, size);
    int problem = errno;
    close(from);
    errno = problem;
    return result;
}

static int create_file(const struct spawner *spawner, const struct places *places, const struct placed_file *entry) {
    bool writable = (entry->flags & FLAG_WRITABLE) != 0;
    struct ownership ownership = {writable ? spawner->settings.shim_uid : 0, writable ? 0700 : 0755};
    const char *name;
    int parent = open_parent(writable ? places->area : places->root, entry->destination, ownership, &name);
    if (parent < 0) return -1;
    int fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    int problem = errno;
    close(parent);
    errno = problem;
    if (fd < 0) return -1;
    mode_t mode = writable ? 0600 : (entry->flags & FLAG_EXECUTABLE) != 0 ? 0555 : 0444;
    if (fchmod(fd, mode) == 0 && fchown(fd, ownership.owner, ownership.owner) == 0) return fd;
    problem = errno;
    close(fd);
    errno = problem;
    return -1;
}

static bool is_measured(const struct placed_file *file) { return (file->flags & FLAG_WRITABLE) == 0; }

static bool has_source(const struct placed_file *file, const struct placed_file *other) {
    return file->source == other->source && file->offset == other->offset && file->length == other->length &&
           strcmp(file->path, other->path) == 0;
}

// What was hashed on its way into the root of a shim that has not been started: nobody but the spawner has been in there.
static const struct placed_file *find_placed(const struct spawner *spawner, const struct placed_file *wanted, unsigned *owner) {
    for (unsigned id = 0; id < MAX_SHIMS; id++) {
        const struct shim *shim = &spawner->shims[id];
        if (shim->state != SHIM_PREPARED || !is_measured(wanted)) continue;
        for (uint16_t i = 0; i < shim->placed_count; i++) {
            if (!is_measured(&shim->placed[i]) || !has_source(&shim->placed[i], wanted)) continue;
            *owner = id;
            return &shim->placed[i];
        }
    }
    return NULL;
}

// The same bytes once more, with the digest that they have: shims of one module are alike, whatever becomes of the source meanwhile.
static int copy_placed(const struct spawner *spawner, const struct placed_file *placed, unsigned owner, int to) {
    char root[MAX_PATH], path[2 * MAX_PATH + 1];
    uint64_t size;
    shim_root_path(spawner, owner, root);
    snprintf(path, sizeof path, "%s%s", root, placed->destination);
    int from = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (from < 0) return -1;
    int result = copy_hashing(spawner, from, 0, placed->size, FILE_LIMIT, to, NULL, &size);
    int problem = errno;
    close(from);
    errno = problem;
    return result;
}

static int fill_file(const struct spawner *spawner, const struct places *places, struct placed_file *file, int to) {
    unsigned owner;
    const struct placed_file *placed = find_placed(spawner, file, &owner);
    if (placed == NULL) return copy_source(spawner, places, file, to, file->digest, &file->size);
    memcpy(file->digest, placed->digest, sizeof file->digest);
    file->size = placed->size;
    return copy_placed(spawner, placed, owner, to);
}

static int place_file(const struct spawner *spawner, const struct places *places, struct placed_file *file, struct writer *out) {
    int to = create_file(spawner, places, file);
    if (to < 0) return -1;
    int result = fill_file(spawner, places, file, to);
    int problem = errno;
    if (close(to) != 0 && result == 0) return -1;
    errno = problem;
    if (result != 0) return -1;
    write_bytes(out, file->digest, sizeof file->digest);
    write_u64(out, file->size);
    return 0;
}

static enum outcome fill(struct spawner *spawner, struct shim *shim, const struct places *places, struct reply *reply) {
    write_u16(&reply->body, shim->placed_count);
    for (uint16_t i = 0; i < shim->placed_count; i++) {
        struct placed_file *entry = &shim->placed[i];
        if (!destination_is_sound(entry->destination)) return fail(reply, "destination %u: not a normalised absolute path", i);
        if (place_file(spawner, places, entry, &reply->body) != 0) return fail(reply, "%s: %s", entry->destination, strerror(errno));
        if ((entry->flags & FLAG_WRITABLE) == 0) continue;
        char *path = strdup(entry->destination);
        if (path == NULL) return fail(reply, "out of memory");
        shim->writable[shim->writable_count++] = path;
    }
    return OUTCOME_DONE;
}

enum outcome prepare_shim(struct spawner *spawner, struct request *request, struct reply *reply) {
    unsigned id = read_u8(&request->body);
    uint16_t count;
    struct placed_file *files = read_entries(&request->body, &count);
    if (files == NULL || id >= MAX_SHIMS || spawner->shims[id].prepare_used) {
        free(files);
        return OUTCOME_BREACH;
    }
    struct shim *shim = &spawner->shims[id];
    struct places places = {-1, -1, -1};
    shim->prepare_used = true;
    shim->placed = files;
    shim->placed_count = count;
    enum outcome outcome =
        open_places(spawner, id, &places) == 0 ? fill(spawner, shim, &places, reply) : fail(reply, "private root %u: %s", id, strerror(errno));
    shim->state = outcome == OUTCOME_DONE ? SHIM_PREPARED : SHIM_FAILED;
    close_places(&places);
    return outcome;
}
