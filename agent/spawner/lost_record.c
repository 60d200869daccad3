// The note for the next boot's agent that this one's is lost, on the store's disk: seal/FORMATS.md, section 9. A power cut writes none.
#include "sha256.h"
#include "spawner.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define RECORD_OFFSET 520192 // the last 4096 bytes of the first slot
#define RECORD_SIZE 128
#define DIGEST_AT (RECORD_SIZE - DIGEST_SIZE)
#define MAGIC "IRONLOST"
#define VERSION 1
#define MAX_REASON 64

static int build_record(uint8_t record[RECORD_SIZE], enum exit_code code, const char *reason) {
    struct writer out = {.bytes = record, .capacity = DIGEST_AT};
    size_t length = strlen(reason);
    memset(record, 0, RECORD_SIZE);
    write_bytes(&out, MAGIC, 8);
    write_u32(&out, VERSION);
    write_u32(&out, (uint32_t)code);
    write_sized16(&out, reason, length > MAX_REASON ? MAX_REASON : length);
    if (out.failed) return errno = EOVERFLOW, -1;
    struct sha256 hash;
    sha256_begin(&hash);
    sha256_update(&hash, record, DIGEST_AT);
    sha256_end(&hash, record + DIGEST_AT);
    return 0;
}

// Only what is there already: where a disk is missing, a file in its place would be gone with the boot.
static int write_record(const char *store, const uint8_t record[RECORD_SIZE]) {
    int fd = open(store, O_WRONLY | O_CLOEXEC | O_DSYNC | O_NOCTTY | O_NOFOLLOW);
    if (fd < 0) return -1;
    ssize_t written = pwrite(fd, record, RECORD_SIZE, RECORD_OFFSET);
    int problem = written < 0 ? errno : EIO;
    close(fd);
    return written == RECORD_SIZE ? 0 : (errno = problem, -1);
}

void leave_lost_record(const char *store, enum exit_code code, const char *reason) {
    uint8_t record[RECORD_SIZE];
    if (*store == '\0' || (code != EXIT_AGENT_LOST && code != EXIT_BREACH)) return;
    if (build_record(record, code, reason) != 0 || write_record(store, record) != 0) {
        log_line(LEVEL_ERROR "%s: the loss is not noted: %s", store, strerror(errno));
    }
}
