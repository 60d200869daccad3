// Stands in for the shim: says on descriptor 3 what it can see and do, then what came out of the PIN pipe.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/capability.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

extern char **environ;
static FILE *out;

static void ids(void) {
    uid_t r, e, s;
    gid_t rg, eg, sg;
    getresuid(&r, &e, &s);
    getresgid(&rg, &eg, &sg);
    fprintf(out, "uids %u %u %u\ngids %u %u %u\ngroups %d\npid %d\nppid %d\n", r, e, s, rg, eg, sg, getgroups(0, NULL), getpid(), getppid());
}

static void capabilities(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    int bounding = 0, signal_number = 0;
    if (syscall(SYS_capget, &header, data) != 0) return;
    for (int i = 0; i < 64; i++) bounding += prctl(PR_CAPBSET_READ, i, 0, 0, 0) == 1;
    prctl(PR_GET_PDEATHSIG, &signal_number, 0, 0, 0);
    fprintf(out, "caps %u %u %u\n", data[0].effective | data[1].effective, data[0].permitted | data[1].permitted, data[0].inheritable | data[1].inheritable);
    fprintf(out, "bounding %d\nno_new_privs %d\npdeathsig %d\n", bounding, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), signal_number);
}

static void descriptors(void) {
    fprintf(out, "fds");
    for (int fd = 0; fd < 1024; fd++) {
        if (fcntl(fd, F_GETFD) >= 0) fprintf(out, " %d", fd);
    }
    struct stat null;
    for (int fd = 0; fd < 3; fd++) {
        if (fstat(fd, &null) == 0) fprintf(out, "\nfd%d %s %lx", fd, S_ISCHR(null.st_mode) ? "chr" : "other", (unsigned long)null.st_rdev);
    }
    fprintf(out, "\n");
}

static int show(const char *path, const struct stat *status, int type, struct FTW *walk) {
    (void)type;
    (void)walk;
    fprintf(out, "entry %s %o %s\n", path, status->st_mode & 07777, S_ISDIR(status->st_mode) ? "directory" : S_ISREG(status->st_mode) ? "file" : "other");
    return 0;
}

static void attempt(const char *what, int result) { fprintf(out, "try %s %s\n", what, result >= 0 ? "works" : strerrorname_np(errno)); }

static void mount_flags(const char *path) {
    struct statvfs status;
    if (statvfs(path, &status) != 0) return;
    fprintf(out, "flags %s%s%s%s%s\n", path, status.f_flag & ST_RDONLY ? " ro" : "", status.f_flag & ST_NOSUID ? " nosuid" : "",
            status.f_flag & ST_NODEV ? " nodev" : "", status.f_flag & ST_NOEXEC ? " noexec" : "");
}

static void attempts(void) {
    attempt("create in /", open("/new", O_CREAT | O_WRONLY, 0600));
    attempt("write /profile", open("/profile", O_WRONLY));
    attempt("create in /state", open("/state/new", O_CREAT | O_WRONLY, 0700));
    attempt("mkdir /lib-new", mkdir("/lib-new", 0700));
    attempt("remount / rw", mount(NULL, "/", NULL, MS_REMOUNT, NULL));
    attempt("mount proc", mount("proc", "/state", "proc", 0, NULL));
    attempt("sethostname", sethostname("x", 1));
    attempt("setuid 0", setuid(0) == 0 && getuid() == 0 ? 0 : -1);
    attempt("open /proc", open("/proc", O_RDONLY));
    attempt("open /dev/null", open("/dev/null", O_RDONLY));
    attempt("chroot", chroot("/state"));
    chdir("/..");
    char directory[64];
    fprintf(out, "cwd %s\n", getcwd(directory, sizeof directory));
}

static void network(void) {
    struct ifreq request = {.ifr_name = "lo"};
    struct if_nameindex *names = if_nameindex();
    int count = 0, fd = socket(AF_INET, SOCK_DGRAM, 0);
    for (struct if_nameindex *name = names; name != NULL && name->if_index != 0; name++) count += strcmp(name->if_name, "lo") != 0;
    ioctl(fd, SIOCGIFFLAGS, &request);
    fprintf(out, "interfaces besides lo %d\nlo %s\n", count, request.ifr_flags & IFF_UP ? "up" : "down");
    close(fd);
}

int main(int argc, char **argv) {
    struct utsname name;
    struct rlimit core;
    out = fdopen(dup(3), "w");
    descriptors();
    uname(&name);
    getrlimit(RLIMIT_CORE, &core);
    fprintf(out, "host %s\ncore %lu\n", name.nodename, (unsigned long)core.rlim_max);
    for (int i = 0; i < argc; i++) fprintf(out, "arg %s\n", argv[i]);
    for (char **variable = environ; *variable != NULL; variable++) fprintf(out, "env %s\n", *variable);
    ids();
    capabilities();
    nftw("/", show, 16, FTW_PHYS);
    mount_flags("/");
    mount_flags("/state");
    attempts();
    network();
    fprintf(out, "end\n");
    fflush(out);
    char pin[256];
    size_t length = 0;
    for (ssize_t n; length < sizeof pin && (n = read(4, pin + length, sizeof pin - length)) > 0;) length += (size_t)n;
    fprintf(out, "pin %zu bytes\nend\n", length);
    fflush(out);
    char last;
    return read(3, &last, 1) == 0 ? 7 : 8;
}
