// PID 1 of a machine without an image: loads the initrd's modules and asks the spawner's own OPEN_STATE handler, as told by
// lines on the first virtio port. One line of answer for each.
#include "../../agent/spawner/device_mapper.h"
#include "../../agent/spawner/request.h"
#include "../../agent/spawner/sysfile.h"
#include "../../vm-images/initrd/initrd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define PLACE "/run/ironclaw/state"
#define PORTS "/sys/class/virtio-ports"
#define KEY_SIZE 96
#define BLOCK 4096

static int port;
static struct spawner spawner = {.settings = {.agent_uid = AGENT_UID, .state_template = "/state-volume.template"}, .phase = PHASE_LAUNCH};
static volatile uint8_t planted[KEY_SIZE];

void give_up(const char *step, const char *detail) {
    log_line("%s: %s", step, detail);
    reboot(RB_POWER_OFF);
    for (;;) pause();
}

void cap_and_reboot(const struct spawner *s, enum exit_code code, const char *reason) {
    (void)s, (void)code;
    give_up("cap", reason);
}

void reap_children(struct spawner *s) { (void)s; }

static void answer(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void answer(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vdprintf(port, format, arguments);
    va_end(arguments);
}

static void answer_result(int result) {
    if (result >= 0) answer("ok\n");
    else answer("%s\n", strerrorname_np(errno));
}

// Never a whole key in the parent's memory: byte by byte, from one number.
static uint8_t key_byte(unsigned seed, unsigned i) { return (uint8_t)(seed * 31 + i * 97 + i * i * 5); }

static _Noreturn void write_key(int to, unsigned seed, const char *how) {
    uint8_t bytes[2 + KEY_SIZE + 1] = {0, KEY_SIZE};
    for (unsigned i = 0; i < KEY_SIZE; i++) bytes[2 + i] = key_byte(seed, i);
    size_t length = strcmp(how, "short") == 0 ? KEY_SIZE + 1 : strcmp(how, "long") == 0 ? KEY_SIZE + 3 : KEY_SIZE + 2;
    _exit(write(to, bytes, length) == (ssize_t)length ? 0 : 1);
}

static bool find_by_serial(const char *serial, char *node, size_t capacity) {
    DIR *directory = opendir("/sys/block");
    bool found = false;
    for (struct dirent *entry; directory != NULL && !found && (entry = readdir(directory)) != NULL;) {
        char path[300], text[32] = "";
        snprintf(path, sizeof path, "/sys/block/%s/serial", entry->d_name);
        int fd = open(path, O_RDONLY);
        found = fd >= 0 && read(fd, text, sizeof text - 1) > 0 && strcmp(text, serial) == 0;
        if (fd >= 0) close(fd);
        if (found) snprintf(node, capacity, "/dev/%s", entry->d_name);
    }
    if (directory != NULL) closedir(directory);
    return found;
}

// The packet that the agent would get, in hexadecimal.
static void open_volume(const char *serial, unsigned mode, unsigned seed, const char *how) {
    static char node[300];
    uint8_t body[64], wanted = (uint8_t)mode;
    int ends[2];
    spawner.settings.state = find_by_serial(serial, node, sizeof node) ? node : "";
    spawner.state_asked = false; // in a machine it stays set; here one boot serves for many cases
    if (pipe2(ends, O_CLOEXEC) != 0) give_up("pipe", strerror(errno));
    pid_t writer = fork();
    if (writer == 0) write_key(ends[1], seed, how);
    close(ends[1]);
    struct request request = {.body = {.bytes = &wanted, .length = 1}, .fd = ends[0]};
    struct reply reply = {.body = {.bytes = body, .capacity = sizeof body}};
    enum outcome outcome = open_state(&spawner, &request, &reply);
    close(ends[0]);
    waitpid(writer, NULL, 0);
    const uint8_t *bytes = outcome == OUTCOME_DONE ? body : (const uint8_t *)reply.problem;
    size_t length = outcome == OUTCOME_DONE ? reply.body.length : strlen(reply.problem);
    answer("07%02x", outcome == OUTCOME_DONE ? 0 : outcome == OUTCOME_FAILED ? 1 : 255);
    for (size_t i = 0; i < length; i++) answer("%02x", bytes[i]);
    answer("\n");
}

static int close_volume(void) {
    if (umount2(PLACE, 0) != 0) return -1;
    return dm_remove("ironclaw-state") != 0 || dm_remove("ironclaw-state-integrity") != 0 ? -1 : 0;
}

static int open_file(const char *name, int flags) {
    char path[128];
    snprintf(path, sizeof path, PLACE "/%s", name);
    return open(path, flags | O_CLOEXEC, 0600);
}

static uint8_t pattern(unsigned block, unsigned i) { return (uint8_t)(block * 7 + i * 13 + (i >> 8)); }

static int fill(const char *name, unsigned blocks) {
    static uint8_t bytes[BLOCK];
    int fd = open_file(name, O_WRONLY | O_CREAT | O_TRUNC);
    if (fd < 0) return -1;
    for (unsigned block = 0; block < blocks; block++) {
        for (unsigned i = 0; i < BLOCK; i++) bytes[i] = pattern(block, i);
        if (write(fd, bytes, BLOCK) != BLOCK) return -1;
    }
    int result = fsync(fd);
    close(fd);
    return result;
}

// Reads every block by itself: right, an error, or wrong.
static void verify(const char *name) {
    static uint8_t bytes[BLOCK] __attribute__((aligned(BLOCK)));
    unsigned right = 0, wrong = 0, failed = 0;
    int fd = open_file(name, O_RDONLY | O_DIRECT), problem = 0;
    struct stat status;
    if (fd < 0 || fstat(fd, &status) != 0) return answer_result(-1);
    for (unsigned block = 0; block < (unsigned)status.st_size / BLOCK; block++) {
        ssize_t n = pread(fd, bytes, BLOCK, (off_t)block * BLOCK);
        if (n != BLOCK) problem = errno, failed++;
        unsigned same = 0;
        for (unsigned i = 0; n == BLOCK && i < BLOCK; i++) same += bytes[i] == pattern(block, i);
        if (n == BLOCK) *(same == BLOCK ? &right : &wrong) += 1;
    }
    close(fd);
    answer("right %u wrong %u failed %u %s\n", right, wrong, failed, failed == 0 ? "-" : strerrorname_np(problem));
}

static void read_file(const char *name) {
    char text[256];
    int fd = open_file(name, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (n < 0) answer_result(-1);
    for (ssize_t i = 0; i < n; i++) answer("%02x", (uint8_t)text[i]);
    if (n >= 0) answer("\n");
    if (fd >= 0) close(fd);
}

static int write_file(const char *name, const char *text) {
    int fd = open_file(name, O_WRONLY | O_CREAT | O_TRUNC);
    int result = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? fsync(fd) : -1;
    if (fd >= 0) close(fd);
    return result;
}

// Numbered lines until the power fails; a number is said only after its line was synced.
static _Noreturn void append(const char *name) {
    int fd = open_file(name, O_WRONLY | O_CREAT | O_APPEND);
    for (unsigned i = 0;; i++) {
        if (dprintf(fd, "%06u\n", i) != 7 || fdatasync(fd) != 0) give_up("append", strerror(errno));
        answer("%u\n", i);
    }
}

// How many whole lines stand there, each its own number.
static void count_lines(const char *name) {
    unsigned count = 0, number;
    int fd = open_file(name, O_RDONLY);
    for (char line[8] = ""; fd >= 0 && read(fd, line, 7) == 7 && sscanf(line, "%u", &number) == 1 && number == count;) count++;
    if (fd >= 0) close(fd);
    answer("%u\n", count);
}

// Where the first half of a key stands in this process's writable memory.
static void search_memory(unsigned seed) {
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[256];
    unsigned found = 0;
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL) {
        unsigned long from, to;
        if (sscanf(line, "%lx-%lx rw", &from, &to) != 2 || strstr(line, " rw") == NULL) continue;
        for (const volatile uint8_t *at = (const uint8_t *)from; at + KEY_SIZE / 2 <= (const uint8_t *)to; at++) {
            unsigned i = 0;
            while (i < KEY_SIZE / 2 && at[i] == key_byte(seed, i)) i++;
            found += i == KEY_SIZE / 2;
        }
    }
    if (maps != NULL) fclose(maps);
    answer("%u\n", found);
}

// dm-crypt's table line as root reads it back.
static void read_table(void) {
    struct {
        struct dm_ioctl header;
        char text[1024];
    } command = {.header = {.version = {DM_VERSION_MAJOR}, .data_size = sizeof command, .data_start = sizeof command.header, .flags = DM_STATUS_TABLE_FLAG, .name = "ironclaw-state"}};
    int fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
    int result = ioctl(fd, DM_TABLE_STATUS, &command);
    close(fd);
    if (result != 0) answer_result(-1);
    else answer("%s\n", command.text + sizeof(struct dm_target_spec));
}

// What the agent's user may open: the control node, the volume's node, the raw disk; and the mount itself.
static void try_as_agent(void) {
    pid_t child = fork();
    if (child != 0) {
        waitpid(child, NULL, 0);
        return;
    }
    struct stat status;
    char node[32];
    if (stat(PLACE, &status) != 0 || setgid(AGENT_UID) != 0 || setuid(AGENT_UID) != 0) _exit(1);
    snprintf(node, sizeof node, "/dev/dm-%u", minor(status.st_dev));
    const char *const paths[] = {"/dev/mapper/control", node, spawner.settings.state, PLACE "/volume-id"};
    for (size_t i = 0; i < 4; i++) answer("%s ", open(paths[i], O_RDONLY) >= 0 ? "opens" : strerrorname_np(errno));
    answer("%o %u\n", status.st_mode & 07777, status.st_uid);
    _exit(0);
}

static void mount_flags(void) {
    char line[512];
    FILE *mounts = fopen("/proc/self/mounts", "re");
    while (mounts != NULL && fgets(line, sizeof line, mounts) != NULL) {
        if (strstr(line, " " PLACE " ") != NULL) answer("%s", strchr(line, ' ') + 1);
    }
    if (mounts != NULL) fclose(mounts);
}

static void obey(char *line) {
    char *words[5] = {"", "", "", "", ""};
    for (size_t i = 0; i < 5 && line != NULL; i++) words[i] = strsep(&line, " ");
    const char *what = words[0], *name = words[1];
    unsigned number = (unsigned)atoi(words[2]);
    if (strcmp(what, "open") == 0) open_volume(name, number, (unsigned)atoi(words[3]), words[4]);
    else if (strcmp(what, "close") == 0) answer_result(close_volume());
    else if (strcmp(what, "write") == 0) answer_result(write_file(name, words[2]));
    else if (strcmp(what, "read") == 0) read_file(name);
    else if (strcmp(what, "fill") == 0) answer_result(fill(name, number));
    else if (strcmp(what, "verify") == 0) verify(name);
    else if (strcmp(what, "append") == 0) append(name);
    else if (strcmp(what, "count") == 0) count_lines(name);
    else if (strcmp(what, "search") == 0) search_memory((unsigned)atoi(name));
    else if (strcmp(what, "table") == 0) read_table();
    else if (strcmp(what, "agent") == 0) try_as_agent();
    else if (strcmp(what, "mount") == 0) mount_flags();
    else if (strcmp(what, "plant") == 0) {
        for (unsigned i = 0; i < KEY_SIZE; i++) planted[i] = key_byte((unsigned)atoi(name), i);
        answer("ok\n");
    } else answer("what?\n");
}

// The only port there is, or -1.
static int open_port(void) {
    int fd = -1;
    DIR *directory = opendir(PORTS);
    for (struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL;) {
        char node[300];
        snprintf(node, sizeof node, "/dev/%s", entry->d_name);
        if (entry->d_name[0] != '.') fd = open(node, O_RDWR | O_CLOEXEC);
    }
    if (directory != NULL) closedir(directory);
    return fd;
}

static void set_up(void) {
    mkdir("/run", 0755);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("tmpfs", "/run", "tmpfs", 0, "mode=0755");
    int console = open("/dev/console", O_RDWR | O_NOCTTY);
    for (int fd = 0; fd < 3; fd++) dup2(console, fd);
    mkdir("/run/ironclaw", 0755);
    if (chown("/run/ironclaw", AGENT_UID, AGENT_UID) != 0) give_up("chown", strerror(errno));
    load_modules("");
    if (write_line("/proc/sys/kernel/modules_disabled", "1") != 0) give_up("modules_disabled", strerror(errno));
    for (int tries = 0; (port = open_port()) < 0 && tries < 500; tries++) usleep(10000);
    if (port < 0) give_up(PORTS, strerror(errno));
    spawner.agent_pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
}

int main(void) {
    char line[256];
    set_up();
    answer("up\n");
    for (size_t used = 0;;) {
        ssize_t n = read(port, line + used, 1);
        if (n <= 0) usleep(10000); // nobody is connected
        else if (line[used] == '\n') line[used] = '\0', used = 0, obey(line);
        else if (used < sizeof line - 1) used++;
    }
}
