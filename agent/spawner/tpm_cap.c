// Closing the agent PCR without the agent: one hand-built command, because no TPM library belongs into PID 1.
#include "sha256.h"
#include "spawner.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define TPM_ST_SESSIONS 0x8002
#define TPM_CC_PCR_Extend 0x182
#define TPM_RS_PW 0x40000009
#define TPM_ALG_SHA256 0x000b
#define TPM_ALG_SHA384 0x000c
#define TPM_RC_YIELDED 0x908
#define TPM_RC_TESTING 0x90a
#define TPM_RC_RETRY 0x922
#define AGENT_PCR 13
#define ATTEMPTS 8
#define PATIENCE_MS 10000

#define CAP_TEXT "ironclaw: agent lost"
// SHA-384 of CAP_TEXT, so that PID 1 needs no second hash function. A test computes it.
static const uint8_t CAP_SHA384[48] = {
    0x86, 0x1c, 0x39, 0x65, 0x3f, 0xb3, 0xc7, 0x6b, 0x4b, 0xe4, 0xee, 0x76, 0x42, 0x04, 0xe5, 0x21,
    0x0f, 0x90, 0x08, 0x1a, 0x0d, 0x13, 0xac, 0xc1, 0x92, 0x54, 0x6a, 0x60, 0x5d, 0x3e, 0x94, 0xb8,
    0x78, 0x7e, 0xbf, 0x02, 0xed, 0xd6, 0x69, 0xd5, 0x01, 0xc3, 0x18, 0x3d, 0x14, 0xb9, 0xb6, 0x5f,
};

struct bank {
    uint16_t algorithm;
    uint8_t digest[48];
    size_t length;
};

// TPM 2.0 Library, part 3, TPM2_PCR_Extend; part 1, password authorisation with an empty password.
static size_t build_extend(uint8_t *command, size_t capacity, const struct bank *banks, uint32_t count) {
    struct writer out = {.bytes = command, .capacity = capacity};
    size_t digests = 0;
    for (uint32_t i = 0; i < count; i++) digests += 2 + banks[i].length;
    write_u16(&out, TPM_ST_SESSIONS);
    write_u32(&out, (uint32_t)(10 + 4 + 4 + 9 + 4 + digests));
    write_u32(&out, TPM_CC_PCR_Extend);
    write_u32(&out, AGENT_PCR);
    write_u32(&out, 9); // authorisation area: handle, empty nonce, attributes, empty password
    write_u32(&out, TPM_RS_PW);
    write_u16(&out, 0);
    write_u8(&out, 0);
    write_u16(&out, 0);
    write_u32(&out, count);
    for (uint32_t i = 0; i < count; i++) {
        write_u16(&out, banks[i].algorithm);
        write_bytes(&out, banks[i].digest, banks[i].length);
    }
    return out.failed ? 0 : out.length;
}

static int open_socket(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) return errno = ENAMETOOLONG, -1;
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
    int problem = errno;
    close(fd);
    errno = problem;
    return -1;
}

static int open_tpm(const char *tpm) {
    return strncmp(tpm, "unix:", 5) == 0 ? open_socket(tpm + 5) : open(tpm, O_RDWR | O_CLOEXEC);
}

// The response code, or 0xffffffff when there was no response.
static uint32_t transmit(int fd, const uint8_t *command, size_t length) {
    uint8_t response[4096];
    struct pollfd waiting = {fd, POLLIN, 0};
    if (write(fd, command, length) != (ssize_t)length) return UINT32_MAX;
    if (poll(&waiting, 1, PATIENCE_MS) != 1) return UINT32_MAX;
    ssize_t n = read(fd, response, sizeof response);
    if (n < 10) return UINT32_MAX;
    return (uint32_t)response[6] << 24 | (uint32_t)response[7] << 16 | (uint32_t)response[8] << 8 | response[9];
}

static bool worth_repeating(uint32_t code) { return code == TPM_RC_RETRY || code == TPM_RC_YIELDED || code == TPM_RC_TESTING; }

static int extend(int fd, const struct bank *banks, uint32_t count) {
    uint8_t command[256];
    size_t length = build_extend(command, sizeof command, banks, count);
    uint32_t code = TPM_RC_RETRY;
    for (int attempt = 0; attempt < ATTEMPTS && worth_repeating(code); attempt++) {
        if (attempt > 0) usleep(50000);
        code = transmit(fd, command, length);
    }
    if (code != 0) log_line("TPM2_PCR_Extend: response 0x%08x", code);
    return code == 0 ? 0 : -1;
}

int cap_agent_pcr(const char *tpm) {
    struct bank banks[2] = {{.algorithm = TPM_ALG_SHA256, .length = 32}, {.algorithm = TPM_ALG_SHA384, .length = 48}};
    struct sha256 hash;
    sha256_begin(&hash);
    sha256_update(&hash, CAP_TEXT, strlen(CAP_TEXT));
    sha256_end(&hash, banks[0].digest);
    memcpy(banks[1].digest, CAP_SHA384, sizeof CAP_SHA384);
    int fd = open_tpm(tpm);
    if (fd < 0) {
        log_line("%s: %s", tpm, strerror(errno));
        return -1;
    }
    int result = extend(fd, banks, 2);
    // A TPM that does not know one of the algorithms refuses both: then each by itself.
    if (result != 0) {
        int first = extend(fd, &banks[0], 1), second = extend(fd, &banks[1], 1);
        result = first == 0 || second == 0 ? 0 : -1;
    }
    close(fd);
    return result;
}
