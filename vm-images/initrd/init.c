// The steps, in order. What stands on the command line is measured, so the root hash, and through it every byte of the
// root file system, is part of the boot PCRs.
#include "initrd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOT "/root"

static int console = -1;

void give_up(const char *step, const char *detail) {
    char line[256];
    int length = snprintf(line, sizeof line, "initrd: %s: %s, powering off\n", step, detail);
    if (console >= 0 && length > 0) {
        ssize_t ignored = write(console, line, (size_t)length < sizeof line ? (size_t)length : sizeof line - 1);
        (void)ignored; // nobody is left to tell
    }
    sync();
    reboot(RB_POWER_OFF);
    for (;;) pause(); // PID 1 may not end
}

static void mount_or_give_up(const char *source, const char *target, const char *type, unsigned long flags) {
    if (mount(source, target, type, flags, NULL) != 0) give_up(target, strerror(errno));
}

static void open_console(void) {
    console = open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (console < 0) console = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
}

static void read_command_line(char *text, size_t capacity) {
    int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, capacity - 1);
    if (n < 0) give_up("/proc/cmdline", strerror(errno));
    text[n] = '\0';
    close(fd);
}

// MS_MOVE and chroot, because an initramfs cannot be unmounted. Its files go with it: they hold nothing that is secret.
static void enter_root(void) {
    static const char *const MOVED[] = {"/dev", "/proc", "/sys"};
    for (size_t i = 0; i < sizeof MOVED / sizeof MOVED[0]; i++) {
        char target[32];
        snprintf(target, sizeof target, ROOT "%s", MOVED[i]);
        mount_or_give_up(MOVED[i], target, NULL, MS_MOVE);
    }
    if (chdir(ROOT) != 0) give_up(ROOT, strerror(errno));
    mount_or_give_up(".", "/", NULL, MS_MOVE);
    if (chroot(".") != 0 || chdir("/") != 0) give_up("chroot", strerror(errno));
}

int main(void) {
    static char *const arguments[] = {"/init", NULL}, *const environment[] = {NULL};
    char command_line[COMMAND_LINE_SIZE], disk[DISK_NAME_SIZE];
    struct verity verity;
    mount_or_give_up("devtmpfs", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC);
    open_console();
    mount_or_give_up("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC);
    mount_or_give_up("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC);
    read_command_line(command_line, sizeof command_line);
    parse_verity(command_line, &verity);
    load_modules(command_line);
    find_root_disk(disk);
    mount_or_give_up(open_verity(&verity, disk), ROOT, verity.file_system, MS_RDONLY | MS_NODEV | MS_NOSUID);
    enter_root();
    execve("/init", arguments, environment);
    give_up("/init", strerror(errno));
}
