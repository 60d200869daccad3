/* Files: those of the machine, those that were measured, and what its own directory could be used for. */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lab.h"

static struct open_how beneath = {.flags = O_RDONLY, .resolve = RESOLVE_IN_ROOT};
static const char *const machine_files[] = {
    "/etc/shadow", "/etc/passwd", "/etc/ssl", "/etc/ironclaw", "/root", "/home", "/run/ironclaw", "/run/ironclaw/cabinet", "/var/log", "/tmp",
    "/../etc/shadow", "/../../../../etc/shadow", TOKENS "/../../../../../etc/shadow", "/lost+found", "/usr/lib/ironclaw", NULL,
};
static const char *const process_files[] = {
    "/proc", "/proc/self/mem", "/proc/self/maps", "/proc/self/fd", "/proc/self/exe", "/proc/thread-self", "/proc/1/root", "/proc/kcore",
    "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/keys", NULL,
};
static const char *const devices[] = {
    "/sys", "/sys/kernel/security", "/sys/fs/cgroup", "/dev", "/dev/null", "/dev/mem", "/dev/kmsg", "/dev/tpm0", "/dev/tpmrm0", "/dev/vda",
    "/dev/virtio-ports", "/dev/bus/usb", "/dev/shm", "/dev/pts", "/dev/console", NULL,
};

/* ENOENT when none of them can be opened and all are missing. */
static int open_each(const char *const *paths) {
  for (; *paths != NULL; paths++) {
    int error = try_call(SYS_openat, (const long[6]){AT_FDCWD, (long)*paths, O_RDONLY});
    if (error != ENOENT) return error;
  }
  return ENOENT;
}

static int open_machine(void) { return open_each(machine_files); }
static int open_process_files(void) { return open_each(process_files); }
static int open_devices(void) { return open_each(devices); }

static int make_file(void) {
  int fd = open(TOKENS "/made", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return errno;
  return write(fd, "x", 1) == 1 && close(fd) == 0 ? 0 : errno;
}

static int make_unnamed_file(void) {
  return try_call(SYS_openat, (const long[6]){AT_FDCWD, (long)TOKENS, O_TMPFILE | O_RDWR, 0600});
}

static int write_kept_file(void) { return write(scratch_fd, "x", 1) == 1 ? 0 : errno; }

const struct attempt file_attempts[] = {
    {"files of the machine", 0, {0}, open_machine},
    {"/proc", 0, {0}, open_process_files},
    {"devices, /sys and /dev/shm", 0, {0}, open_devices},
    {"write /profile", SYS_openat, {AT_FDCWD, (long)"/profile", O_WRONLY}, NULL},
    {"write /shim", SYS_openat, {AT_FDCWD, (long)"/shim", O_RDWR}, NULL},
    {"write the library's own file", SYS_openat, {AT_FDCWD, (long)"/lab/module.so", O_WRONLY | O_TRUNC}, NULL},
    {"write the loader", SYS_openat, {AT_FDCWD, (long)"/lib64/ld-linux-x86-64.so.2", O_WRONLY}, NULL},
    {"a new file beside the library", SYS_openat, {AT_FDCWD, (long)"/lab/new.so", O_WRONLY | O_CREAT, 0700}, NULL},
    {"a new file in the root", SYS_openat, {AT_FDCWD, (long)"/ironclaw-hostile", O_WRONLY | O_CREAT, 0600}, NULL},
    {"a new /etc/ld.so.preload", SYS_openat, {AT_FDCWD, (long)"/etc/ld.so.preload", O_WRONLY | O_CREAT, 0600}, NULL},
    {"a new file in its own directory", 0, {0}, make_file},
    {"a nameless file in its own directory", 0, {0}, make_unnamed_file},
    {"more of a file that it kept open", 0, {0}, write_kept_file},
    {"openat2", SYS_openat2, {AT_FDCWD, (long)"/shim", (long)&beneath, sizeof beneath}, NULL},
    {"open (the older call)", SYS_open, {(long)"/shim", O_RDONLY}, NULL},
    {"creat", SYS_creat, {(long)TOKENS "/creat", 0600}, NULL},
    {"mkdir in its own directory", SYS_mkdir, {(long)TOKENS "/directory", 0700}, NULL},
    {"symlink in its own directory", SYS_symlink, {(long)"/etc/shadow", (long)TOKENS "/link"}, NULL},
    {"link to a measured file", SYS_link, {(long)"/shim", (long)TOKENS "/shim"}, NULL},
    {"rename", SYS_rename, {(long)TOKENS "/scratch", (long)TOKENS "/renamed"}, NULL},
    {"unlink", SYS_unlink, {(long)TOKENS "/scratch"}, NULL},
    {"mknod of a device", SYS_mknod, {(long)TOKENS "/device", S_IFCHR | 0600, 0x101}, NULL},
    {"mknod of a socket", SYS_mknod, {(long)TOKENS "/socket", S_IFSOCK | 0600}, NULL},
    {"mknod of a fifo", SYS_mknod, {(long)TOKENS "/fifo", S_IFIFO | 0600}, NULL},
    {"chmod with the setuid bit", SYS_chmod, {(long)TOKENS "/scratch", 04777}, NULL},
    {"fchmod of a measured file", SYS_fchmodat, {AT_FDCWD, (long)"/shim", 0777}, NULL},
    {"chown", SYS_chown, {(long)TOKENS "/scratch", 0, 0}, NULL},
    {"setxattr", SYS_setxattr, {(long)TOKENS "/scratch", (long)"user.lab", (long)"x", 1}, NULL},
    {"truncate", SYS_truncate, {(long)"/profile", 0}, NULL},
    {"fallocate", SYS_fallocate, {0, 0, 0, 4096}, NULL},
    {"copy_file_range", SYS_copy_file_range, {4, 0, 3, 0, 1}, NULL},
    {"utimensat", SYS_utimensat, {AT_FDCWD, (long)"/shim"}, NULL},
    {"chdir", SYS_chdir, {(long)TOKENS}, NULL},
    {"chroot", SYS_chroot, {(long)TOKENS}, NULL},
    {"name_to_handle_at", SYS_name_to_handle_at, {AT_FDCWD, (long)"/"}, NULL},
    {"open_by_handle_at", SYS_open_by_handle_at, {AT_FDCWD}, NULL},
    {"inotify_init1", SYS_inotify_init1, {0}, NULL},
    {"fanotify_init", SYS_fanotify_init, {0}, NULL},
    {"swapon", SYS_swapon, {(long)TOKENS "/scratch"}, NULL},
    {NULL, 0, {0}, NULL},
};
