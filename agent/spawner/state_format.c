#include "state_format.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK 4096
#define CHUNK_BLOCKS 256
#define CHUNK (CHUNK_BLOCKS * BLOCK)

static const char MAGIC[8] = "IRONTMPL";

// The template's next block, if it lies in the chunk that begins at block `first`, is copied into it.
static bool take_block(struct reader *template, uint32_t *left, uint32_t first, uint8_t *chunk) {
    if (*left == 0) return false;
    struct reader next = *template;
    uint32_t block = read_u32(&next);
    const uint8_t *bytes = read_bytes(&next, BLOCK);
    if (bytes == NULL || block < first) {
        template->failed = true;
        return false;
    }
    if (block - first >= CHUNK_BLOCKS) return false;
    memcpy(chunk + (size_t)(block - first) * BLOCK, bytes, BLOCK);
    *template = next;
    (*left)--;
    return true;
}

static int write_chunks(const struct spawner *spawner, int volume_fd, struct reader *template) {
    static uint8_t chunk[CHUNK] __attribute__((aligned(BLOCK)));
    const uint8_t *magic = read_bytes(template, sizeof MAGIC);
    uint32_t blocks = read_u32(template), left = read_u32(template);
    if (magic == NULL || memcmp(magic, MAGIC, sizeof MAGIC) != 0 || blocks != STATE_VOLUME_BYTES / BLOCK) return errno = EPROTO, -1;
    for (uint32_t first = 0; first < blocks; first += CHUNK_BLOCKS) {
        // A long write must not delay the cap when the agent dies meanwhile.
        if (agent_is_gone(spawner)) return errno = ECANCELED, -1;
        memset(chunk, 0, CHUNK);
        while (take_block(template, &left, first, chunk)) continue;
        ssize_t n = pwrite(volume_fd, chunk, CHUNK, (off_t)first * BLOCK);
        if (n != CHUNK) return errno = n < 0 ? errno : EIO, -1;
    }
    return reader_ended(template) && left == 0 ? fsync(volume_fd) : (errno = EPROTO, -1);
}

int write_state_template(const struct spawner *spawner, int volume_fd) {
    struct stat status;
    int fd = open(spawner->settings.state_template, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    void *bytes = fstat(fd, &status) != 0 ? MAP_FAILED : mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (bytes == MAP_FAILED) return -1;
    struct reader template = {.bytes = bytes, .length = (size_t)status.st_size};
    int result = write_chunks(spawner, volume_fd, &template);
    int problem = errno;
    munmap(bytes, (size_t)status.st_size);
    errno = problem;
    return result;
}
