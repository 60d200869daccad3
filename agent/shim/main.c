#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shim.h"

void fail(int status, const char *what) {
  int error = errno;
  dprintf(2, "ERROR shim: %s (errno %d)\n", what, error);
  _exit(status);
}

void expect_end(const struct reader *reader) {
  if (!read_end(reader)) fail(EXIT_PROTOCOL, "request payload");
}

static void keep_only_own_descriptors(void) {
  if (fcntl(REQUEST_FD, F_GETFD) < 0 || fcntl(CREDENTIAL_FD, F_GETFD) < 0) fail(EXIT_ENVIRONMENT, "fd 3 and fd 4");
  if (syscall(SYS_close_range, FIRST_FREE_FD, ~0U, 0) != 0) fail(EXIT_ENVIRONMENT, "close_range");
}

/*
 * Holds the PKCS#11 library for the agent. argv[1] is the compiled profile, by default /profile. The order matters:
 * everything is confined, and the agent holds the notifier, before the first byte of a request is read.
 */
int main(int argc, char **argv) {
  static struct profile profile;
  static struct shim shim;
  if (argc > 2) fail(EXIT_ENVIRONMENT, "arguments");
  keep_only_own_descriptors();
  profile_open(argc == 2 ? argv[1] : "/profile", &profile);
  int notifier = confine(&profile, &shim.confinement);
  send_ready(&shim.confinement, notifier);
  if (close(notifier) != 0) fail(EXIT_ENVIRONMENT, "close notifier");
  if (confine_more(&shim.confinement, FILTER_LOCK) != 0) fail(EXIT_ENVIRONMENT, "lock filter");
  serve(&shim);
  return EXIT_SUCCESS;
}
