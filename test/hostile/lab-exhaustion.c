/* More than its share: descriptors, memory, locked memory, disk. Each ends at the limit, and gives back what it can. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lab.h"

enum { MANY = 4096, MEGABYTE = 1 << 20, FILES = 32 };

static int too_many_descriptors(void) {
  int opened = 0, error = 0;
  while (opened < MANY && (error = open("/", O_RDONLY | O_CLOEXEC)) >= 0) opened++;
  error = errno;
  for (int fd = 5; fd < 5 + opened + 8; fd++) {
    if (fd != scratch_fd && fd != scratch_fd - 1) (void)close(fd);
  }
  return opened < MANY ? error : 0;
}

static int too_much_memory(void) {
  static void *chunks[64];
  int made = 0, error = 0;
  for (; made < 64; made++) {
    chunks[made] = mmap(NULL, 64L * MEGABYTE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (chunks[made] == MAP_FAILED) break;
  }
  error = errno;
  for (int i = 0; i < made; i++) (void)munmap(chunks[i], 64L * MEGABYTE);
  return made < 64 ? error : 0;
}

static int too_much_heap(void) {
  void *end = sbrk(0);
  if (sbrk(2L << 30) == (void *)-1) return errno;
  return brk(end);
}

static int too_much_locked(void) {
  void *pages = mmap(NULL, 8L * MEGABYTE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return errno;
  int error = mlock(pages, 8L * MEGABYTE) == 0 ? 0 : errno;
  (void)munmap(pages, 8L * MEGABYTE);
  return error;
}

static int too_large_a_file(void) {
  struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
  if (sigaction(SIGXFSZ, &ignore, &before) != 0) return errno;
  off_t end = lseek(scratch_fd, 64L * MEGABYTE, SEEK_SET);
  int error = end >= 0 && write(scratch_fd, "x", 1) == 1 ? 0 : errno;
  (void)lseek(scratch_fd, 0, SEEK_SET);
  (void)sigaction(SIGXFSZ, &before, NULL);
  return error;
}

/* Its directory holds 16 MiB: no file is over the limit, all together are. */
static int too_much_disk(void) {
  static char zeros[MEGABYTE];
  int files[FILES], count = 0, error = 0;
  for (; count < FILES && error == 0; count++) {
    char path[64];
    (void)snprintf(path, sizeof path, TOKENS "/fill%d", count);
    files[count] = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (files[count] < 0) error = errno;
    else if (write(files[count], zeros, sizeof zeros) != (ssize_t)sizeof zeros) error = ENOSPC;
  }
  for (int i = 0; i < count; i++) {
    if (files[i] < 0) continue;
    if (ftruncate(files[i], 0) != 0) return errno;
    (void)close(files[i]);
  }
  return error;
}

static int too_many_files(void) {
  for (int i = 0; i < 2 * MANY; i++) {
    char path[64];
    (void)snprintf(path, sizeof path, TOKENS "/many%d", i);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return errno;
    (void)close(fd);
  }
  return 0;
}

const struct attempt exhaustion_attempts[] = {
    {"4096 descriptors", 0, {0}, too_many_descriptors},
    {"4 GiB of memory", 0, {0}, too_much_memory},
    {"2 GiB of heap", 0, {0}, too_much_heap},
    {"8 MiB of locked memory", 0, {0}, too_much_locked},
    {"a file of 64 MiB", 0, {0}, too_large_a_file},
    {"32 files of 1 MiB", 0, {0}, too_much_disk},
    {"8192 files", 0, {0}, too_many_files},
    {NULL, 0, {0}, NULL},
};
