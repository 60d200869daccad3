#ifndef IRONCLAW_SHIM_LOAD_H
#define IRONCLAW_SHIM_LOAD_H

#include <dlfcn.h>

/*
 * How a PKCS#11 library is loaded, here and in the test that watches where its symbols bind.
 * RTLD_DEEPBIND: its symbols are looked up in the library and its own dependencies before anything that this process
 * holds, so that an object that came in first cannot stand in for the pinned libcrypto.
 * RTLD_NOW: every symbol is bound before the filter of stage 2 closes the set of code.
 */
#define SHIM_DLOPEN_FLAGS (RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND)

#endif
