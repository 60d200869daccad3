/*
 * Loads a library with the shim's flags, or without RTLD_DEEPBIND when a second argument is given. Run under
 * LD_DEBUG=bindings it shows where each symbol binds. Calls nothing in the library.
 */
#include <stdio.h>
#include <unistd.h>

#include "load.h"

int main(int argc, char **argv) {
  int flags = argc == 2 ? SHIM_DLOPEN_FLAGS : SHIM_DLOPEN_FLAGS & ~RTLD_DEEPBIND;
  if (argc < 2 || dlopen(argv[1], flags) == NULL) {
    (void)fprintf(stderr, "bindings: %s\n", argc < 2 ? "no library" : dlerror());
    return 1;
  }
  /* without destructors: an impostor may have broken what they rely on */
  _exit(0);
}
