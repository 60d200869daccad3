// OPEN_STATE: the encrypted volume, from its disk to its mount. What lies where: agent/SPAWNER.md
#include "state_volume.h"
#include "device_mapper.h"
#include "state_format.h"
#include "state_key.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define MIN_DISK_BYTES (80ull << 20) // volume, tags and journal
#define SECTORS (STATE_VOLUME_BYTES / 512)
#define INTEGRITY "ironclaw-state-integrity"
#define CRYPT "ironclaw-state"
#define CIPHER "capi:authenc(hmac(sha256),xts(aes))-random"

// dm-integrity's modes: direct writes where a crash means to begin again, else through its journal.
enum mode { MODE_DIRECT = 'D', MODE_JOURNAL = 'J' };

enum outcome damaged(const struct opening *opening, const char *step) {
    return fail(opening->reply, "state-damaged: %s: %s", step, strerror(errno));
}

static enum outcome truncated(const struct opening *opening, uint64_t expected, uint64_t got) {
    return fail(opening->reply, "state-truncated: disk: expected %llu bytes, got %llu", (unsigned long long)expected, (unsigned long long)got);
}

static int disk_size(const struct opening *opening, uint64_t *bytes) {
    *bytes = (uint64_t)opening->disk_status.st_size;
    return S_ISBLK(opening->disk_status.st_mode) ? ioctl(opening->disk, BLKGETSIZE64, bytes) : 0;
}

static int new_header(struct state_header *header, uint64_t disk_bytes) {
    header->disk_bytes = disk_bytes;
    return getrandom(header->id, VOLUME_ID_SIZE, 0) == VOLUME_ID_SIZE ? 0 : -1;
}

// Header and superblock, before anything is asked of the kernel. On a zeroed superblock dm-integrity would format the disk.
static enum outcome look_at_disk(struct opening *opening, bool may_format) {
    uint8_t blocks[2][STATE_BLOCK];
    uint64_t bytes;
    struct reply *reply = opening->reply;
    if (fstat(opening->disk, &opening->disk_status) != 0 || disk_size(opening, &bytes) != 0) return damaged(opening, "disk");
    if (bytes < MIN_DISK_BYTES) return truncated(opening, MIN_DISK_BYTES, bytes);
    if (pread(opening->disk, blocks, sizeof blocks, 0) != (ssize_t)sizeof blocks) return damaged(opening, "disk");
    switch (parse_state_header(blocks[0], &opening->header)) {
    case HEADER_DAMAGED: return fail(reply, "state-damaged: header");
    case HEADER_BLANK:
        if (!may_format) return fail(reply, "state-blank: the disk was never formatted, or not to the end");
        opening->format = true;
        return new_header(&opening->header, bytes) == 0 ? OUTCOME_DONE : damaged(opening, "volume id");
    case HEADER_GOOD: break;
    }
    if (bytes < opening->header.disk_bytes) return truncated(opening, opening->header.disk_bytes, bytes);
    return memcmp(blocks[1], "integrt", 8) == 0 ? OUTCOME_DONE : fail(reply, "state-damaged: dm-integrity superblock");
}

static enum outcome look_at_kernel(const struct opening *opening) {
    if (!S_ISBLK(opening->disk_status.st_mode)) return fail(opening->reply, "state-kernel: the disk is no block device");
    for (size_t i = 0; i < 2; i++) {
        const char *target = i == 0 ? "integrity" : "crypt";
        if (!dm_has_target(target)) return fail(opening->reply, "state-kernel: device mapper target %s: %s", target, strerror(errno));
    }
    return OUTCOME_DONE;
}

static enum outcome open_integrity(const struct opening *opening, enum mode mode, dev_t *integrity) {
    char parameters[128];
    dev_t disk = opening->disk_status.st_rdev;
    snprintf(parameters, sizeof parameters, "%u:%u %d 48 %c 1 block_size:%d", major(disk), minor(disk), STATE_BLOCK / 512, mode, STATE_BLOCK);
    return dm_open(INTEGRITY, "integrity", SECTORS, parameters, integrity) == 0 ? OUTCOME_DONE : damaged(opening, "dm-integrity");
}

static enum outcome open_crypt(const struct opening *opening, dev_t integrity, char node[32]) {
    char parameters[256];
    dev_t crypt;
    snprintf(parameters, sizeof parameters, CIPHER " " STATE_KEY_NAME " 0 %u:%u 0 2 integrity:48:aead sector_size:%d", major(integrity),
             minor(integrity), STATE_BLOCK);
    if (dm_open(CRYPT, "crypt", SECTORS, parameters, &crypt) != 0) return fail(opening->reply, "state-kernel: dm-crypt: %s", strerror(errno));
    snprintf(node, 32, "/dev/dm-%u", minor(crypt));
    return OUTCOME_DONE;
}

static enum outcome open_stack(const struct opening *opening, enum mode mode, char node[32]) {
    dev_t integrity;
    enum outcome outcome = open_integrity(opening, mode, &integrity);
    if (outcome != OUTCOME_DONE) return outcome;
    outcome = open_crypt(opening, integrity, node);
    if (outcome != OUTCOME_DONE) dm_remove(INTEGRITY);
    return outcome;
}

static void close_stack(void) {
    if (dm_remove(CRYPT) != 0 || dm_remove(INTEGRITY) != 0) log_line(LEVEL_WARNING "state volume: device mapper: %s", strerror(errno));
}

int write_blocks(int disk, const void *blocks, size_t length) {
    return pwrite(disk, blocks, length, 0) == (ssize_t)length ? fsync(disk) : -1;
}

// Everything but the header and what needs a mount: header and superblock are blank before the first sector changes.
static enum outcome format_body(const struct opening *opening) {
    static const uint8_t zeros[2 * STATE_BLOCK];
    char node[32];
    if (write_blocks(opening->disk, zeros, sizeof zeros) != 0) return damaged(opening, "disk");
    enum outcome outcome = open_stack(opening, MODE_DIRECT, node);
    if (outcome != OUTCOME_DONE) return outcome;
    int volume = open(node, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (volume < 0 || write_state_template(opening->spawner, volume) != 0) outcome = damaged(opening, "format");
    if (volume >= 0) close(volume);
    close_stack();
    return outcome;
}

static enum outcome open_body(const struct opening *opening) {
    char node[32];
    enum outcome outcome = open_stack(opening, MODE_JOURNAL, node);
    if (outcome != OUTCOME_DONE) return outcome;
    outcome = mount_volume(opening, node);
    if (outcome != OUTCOME_DONE) close_stack();
    return outcome;
}

static enum outcome open_with_key(const struct opening *opening, int pipe_fd) {
    int32_t key;
    enum outcome outcome = take_state_key(opening->spawner, pipe_fd, &key, opening->reply);
    if (outcome != OUTCOME_DONE) return outcome;
    outcome = look_at_kernel(opening);
    if (outcome == OUTCOME_DONE && opening->format) outcome = format_body(opening);
    if (outcome == OUTCOME_DONE) outcome = open_body(opening);
    drop_state_key(key);
    return outcome;
}

enum outcome open_state(struct spawner *spawner, struct request *request, struct reply *reply) {
    unsigned mode = read_u8(&request->body);
    if (!reader_ended(&request->body) || mode > 1 || spawner->state_asked || !is_pipe_to_read(request->fd)) return OUTCOME_BREACH;
    spawner->state_asked = true;
    struct opening opening = {.spawner = spawner, .reply = reply, .disk = open(spawner->settings.state, O_RDWR | O_CLOEXEC)};
    if (opening.disk < 0) return fail(reply, "state-missing: %s", strerror(errno));
    enum outcome outcome = look_at_disk(&opening, mode == 1);
    if (outcome == OUTCOME_DONE) outcome = open_with_key(&opening, request->fd);
    close(opening.disk);
    log_line("state volume: %s", outcome != OUTCOME_DONE ? reply->problem : opening.format ? "formatted and opened" : "opened");
    write_u8(&reply->body, opening.format);
    write_bytes(&reply->body, opening.header.id, VOLUME_ID_SIZE);
    write_u64(&reply->body, STATE_VOLUME_BYTES);
    return outcome;
}
