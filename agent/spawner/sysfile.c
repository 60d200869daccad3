#include "sysfile.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

bool read_line(const char *path, char *text, size_t capacity) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, text, capacity - 1);
    close(fd);
    if (n < 0) return false;
    text[n] = '\0';
    size_t length = strcspn(text, "\n");
    if (text[length] == '\0' && (size_t)n == capacity - 1) return false;
    text[length] = '\0';
    return true;
}

int write_line(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t n = write(fd, text, strlen(text));
    int problem = errno;
    close(fd);
    errno = problem;
    return n == (ssize_t)strlen(text) ? 0 : -1;
}
