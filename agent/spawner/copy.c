#include "copy.h"

#include <errno.h>
#include <unistd.h>

#define CHUNK (256 * 1024)

static uint8_t buffer[CHUNK]; // one request at a time, one thread

static int write_all(int fd, const uint8_t *bytes, size_t length) {
    while (length > 0) {
        ssize_t n = write(fd, bytes, length);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return -1;
        bytes += n;
        length -= (size_t)n;
    }
    return 0;
}

// One chunk; 0 at the end of the file.
static ssize_t read_chunk(int fd, uint8_t *bytes, size_t length, uint64_t offset) {
    for (;;) {
        ssize_t n = pread(fd, bytes, length, (off_t)offset);
        if (n >= 0 || errno != EINTR) return n;
    }
}

int copy_hashing(const struct spawner *spawner, int from, uint64_t offset, uint64_t length, uint64_t limit, int to,
                 uint8_t digest[DIGEST_SIZE], uint64_t *size) {
    struct sha256 hash;
    uint64_t done = 0;
    sha256_begin(&hash);
    while (done < length) {
        // A long copy must not delay the cap when the agent dies meanwhile.
        if (agent_is_gone(spawner)) return errno = ECANCELED, -1;
        size_t want = length - done < CHUNK ? (size_t)(length - done) : CHUNK;
        ssize_t n = read_chunk(from, buffer, want, offset + done);
        if (n < 0) return -1;
        if (n == 0 && length != UINT64_MAX) return errno = ENODATA, -1;
        if (n == 0) break;
        done += (uint64_t)n;
        if (done > limit) return errno = EFBIG, -1;
        if (digest != NULL) sha256_update(&hash, buffer, (size_t)n);
        if (to >= 0 && write_all(to, buffer, (size_t)n) != 0) return -1;
    }
    if (digest != NULL) sha256_end(&hash, digest);
    *size = done;
    return 0;
}

ssize_t hash_more(const struct spawner *spawner, int fd, uint64_t offset, size_t length, struct sha256 *hash) {
    size_t done = 0;
    while (done < length) {
        if (agent_is_gone(spawner)) return errno = ECANCELED, -1;
        ssize_t n = read_chunk(fd, buffer, length - done < CHUNK ? length - done : CHUNK, offset + done);
        if (n < 0) return -1;
        if (n == 0) break;
        sha256_update(hash, buffer, (size_t)n);
        done += (size_t)n;
    }
    return (ssize_t)done;
}
