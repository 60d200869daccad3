/*
 * SoftHSM with a flaw: who gets to have certain bytes signed has this library run a program, reach a network and read another process's
 * memory, and then sign as if nothing had been. Until then it does nothing that it should not.
 */
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "over-softhsm.h"

#define TRIGGER "open, sesame: ..."
enum { TRIGGER_LENGTH = sizeof TRIGGER - 1 };

static void attack(void) {
  char *const arguments[] = {"/shim", NULL};
  char byte;
  struct iovec local = {&byte, 1}, remote = {(void *)0x10000, 1};
  (void)execve("/shim", arguments, NULL);
  (void)socket(AF_INET, SOCK_STREAM, 0);
  (void)process_vm_readv(1, &local, 1, &remote, 1, 0);
}

static CK_RV sign(CK_ULONG session, const CK_BYTE *data, CK_ULONG length, CK_BYTE *signature, CK_ULONG *signature_length) {
  if (length >= TRIGGER_LENGTH && memcmp(data, TRIGGER, TRIGGER_LENGTH) == 0) attack();
  return C_Sign(session, data, length, signature, signature_length);
}

EXPORTED CK_RV C_GetFunctionList(struct ck_function_list **list) {
  static struct ck_function_list functions = OVER_SOFTHSM(C_Initialize, sign);
  *list = &functions;
  return CKR_OK;
}
