// Closing the agent PCR without the agent: one hand-built command, because no TPM library belongs into PID 1.
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
#define TPM_CC_PCR_Event 0x13c
#define TPM_RS_PW 0x40000009
#define TPM_RC_YIELDED 0x908
#define TPM_RC_TESTING 0x90a
#define TPM_RC_RETRY 0x922
#define AGENT_PCR 13
#define ATTEMPTS 8
#define PATIENCE_MS 10000

#define CAP_TEXT "ironclaw: agent lost"

// TPM 2.0 Library, part 3, TPM2_PCR_Event: the TPM hashes the text itself, for every bank that is active; part 1, password
// authorisation with an empty password.
static size_t build_event(uint8_t *command, size_t capacity) {
    struct writer out = {.bytes = command, .capacity = capacity};
    write_u16(&out, TPM_ST_SESSIONS);
    write_u32(&out, (uint32_t)(10 + 4 + 4 + 9 + 2 + strlen(CAP_TEXT)));
    write_u32(&out, TPM_CC_PCR_Event);
    write_u32(&out, AGENT_PCR);
    write_u32(&out, 9); // authorisation area: handle, empty nonce, attributes, empty password
    write_u32(&out, TPM_RS_PW);
    write_u16(&out, 0);
    write_u8(&out, 0);
    write_u16(&out, 0);
    write_sized16(&out, CAP_TEXT, strlen(CAP_TEXT));
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

static int extend(int fd) {
    uint8_t command[128];
    size_t length = build_event(command, sizeof command);
    uint32_t code = TPM_RC_RETRY;
    for (int attempt = 0; attempt < ATTEMPTS && worth_repeating(code); attempt++) {
        if (attempt > 0) usleep(50000);
        code = transmit(fd, command, length);
    }
    if (code != 0) log_line(LEVEL_ERROR "TPM2_PCR_Event: response 0x%08x", code);
    return code == 0 ? 0 : -1;
}

int cap_agent_pcr(const char *tpm) {
    int fd = open_tpm(tpm);
    if (fd < 0) {
        log_line(LEVEL_ERROR "%s: %s", tpm, strerror(errno));
        return -1;
    }
    int result = extend(fd);
    close(fd);
    return result;
}
