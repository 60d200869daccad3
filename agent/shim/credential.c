#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shim.h"

static bool read_frame(struct credential *credential, size_t max) {
  uint8_t bytes[2];
  if (!read_exactly(CREDENTIAL_FD, bytes, sizeof bytes)) return false;
  struct reader head = {.at = bytes, .left = sizeof bytes};
  credential->length = read_u16(&head);
  return credential->length > 0 && credential->length <= max &&
         read_exactly(CREDENTIAL_FD, credential->bytes, credential->length);
}

CK_RV take_credential(size_t max, struct credential **credential) {
  struct credential *pages = mmap(NULL, sizeof *pages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return CKR_HOST_MEMORY;
  CK_RV rv = CKR_HOST_MEMORY;
  if (mlock(pages, sizeof *pages) == 0 && madvise(pages, sizeof *pages, MADV_DONTDUMP) == 0) {
    rv = read_frame(pages, max) ? CKR_OK : CKR_DATA_LEN_RANGE;
  }
  if (rv == CKR_OK) *credential = pages;
  else drop_credential(pages);
  return rv;
}

void drop_credential(struct credential *credential) {
  explicit_bzero(credential, sizeof *credential);
  if (munmap(credential, sizeof *credential) != 0) fail(EXIT_ENVIRONMENT, "unmap a credential");
}

/* Landlock decides where; a file that exists, or a link, is never written through. */
static CK_RV write_new_file(const char *path, const struct credential *credential) {
  int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0400);
  if (fd < 0) return CKR_FUNCTION_FAILED;
  size_t done = 0;
  while (done < credential->length) {
    ssize_t n = write(fd, credential->bytes + done, credential->length - done);
    if (n <= 0) break;
    done += (size_t)n;
  }
  if (done < credential->length && ftruncate(fd, 0) != 0) fail(EXIT_ENVIRONMENT, "empty a credential file");
  if (close(fd) != 0) return CKR_FUNCTION_FAILED;
  return done == credential->length ? CKR_OK : CKR_FUNCTION_FAILED;
}

static CK_RV deliver(const char *path) {
  struct credential *credential;
  CK_RV rv = take_credential(MAX_CREDENTIAL, &credential);
  if (rv != CKR_OK) return rv;
  rv = write_new_file(path, credential);
  drop_credential(credential);
  return rv;
}

CK_RV op_credential(struct shim *shim, struct reader *in, struct writer *out) {
  char path[MAX_PATH + 1];
  bool usable = read_path(in, path);
  (void)out;
  if (shim->phase != PHASE_FRESH) return CKR_FUNCTION_NOT_SUPPORTED;
  CK_RV rv = usable ? deliver(path) : CKR_ARGUMENTS_BAD;
  /* What is left in the channel is then not what the agent thinks: a log-in would try it as a PIN. */
  if (rv != CKR_OK) shim->phase = PHASE_FAILED;
  return rv;
}
