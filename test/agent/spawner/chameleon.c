// Runs the program of its argument from a file in memory, and at each SIGUSR1 a changed copy instead, without a trace in
// the file's size or times: a write through a mapping of a file in memory leaves none. Says each process's number.
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// A file that is open for writing cannot be executed: it is opened anew for each purpose.
static int open_again(int fd, int flags) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, flags | O_CLOEXEC);
}

static int copy_of(const char *path) {
    int from = open(path, O_RDONLY), to = memfd_create("chameleon", MFD_CLOEXEC);
    while (sendfile(to, from, NULL, 1 << 20) > 0) continue;
    if (write(to, "a", 1) != 1) return -1; // what changes later: no part of the program
    int again = open_again(to, O_RDONLY);
    close(to);
    return again;
}

static pid_t run(int fd) {
    char *arguments[] = {"chameleon", "60", NULL}, *environment[] = {NULL};
    pid_t pid = fork();
    if (pid != 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    syscall(SYS_execveat, fd, "", arguments, environment, AT_EMPTY_PATH);
    _exit(1);
}

static int change(int fd) {
    struct stat status;
    int writable = open_again(fd, O_RDWR);
    if (writable < 0 || fstat(fd, &status) != 0) return -1;
    volatile char *bytes = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, writable, 0);
    if (bytes == MAP_FAILED) return -1;
    // Read first: then the page is there and writable, and the write is no fault that the kernel would note.
    char last = bytes[status.st_size - 1];
    bytes[status.st_size - 1] = (char)(last + 1);
    munmap((void *)bytes, (size_t)status.st_size);
    return close(writable);
}

int main(int argc, char **argv) {
    int fd = argc == 2 ? copy_of(argv[1]) : -1, taken;
    sigset_t go_on;
    sigemptyset(&go_on);
    sigaddset(&go_on, SIGUSR1);
    sigprocmask(SIG_BLOCK, &go_on, NULL);
    for (int copy = 1; fd >= 0; copy++) {
        pid_t pid = run(fd);
        printf("copy %d is %d\n", copy, (int)pid);
        fflush(stdout);
        sigwait(&go_on, &taken);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        if (change(fd) != 0) return 1;
    }
    return 1;
}
