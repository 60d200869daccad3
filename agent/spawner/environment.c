#include "environment.h"

#include <ctype.h>
#include <stddef.h>
#include <string.h>

// What glibc itself drops for setuid programs, and what shells read before the first line of a script. A name ending in
// '*' is a prefix.
static const char *const REFUSED[] = {
    "LD_*",   "MALLOC_*", "GLIBC_*",     "GCONV_PATH",  "GETCONF_DIR", "LOCPATH", "NLSPATH",  "HOSTALIASES", "LOCALDOMAIN",
    "RESOLV_*", "RES_OPTIONS", "NIS_PATH", "TZDIR",  "TMPDIR",      "BASH_ENV", "ENV",
};

static bool matches(const char *pattern, const char *name, size_t length) {
    size_t stem = strcspn(pattern, "*");
    if (pattern[stem] == '*') return length >= stem && memcmp(pattern, name, stem) == 0;
    return length == stem && memcmp(pattern, name, stem) == 0;
}

static bool name_is_sound(const char *name, size_t length) {
    if (length == 0 || isdigit((unsigned char)name[0])) return false;
    for (size_t i = 0; i < length; i++) {
        if (!isalnum((unsigned char)name[i]) && name[i] != '_') return false;
    }
    for (size_t i = 0; i < sizeof REFUSED / sizeof REFUSED[0]; i++) {
        if (matches(REFUSED[i], name, length)) return false;
    }
    return true;
}

bool environment_is_sound(const char *entry) {
    size_t length = strcspn(entry, "=");
    if (entry[length] != '=' || !name_is_sound(entry, length)) return false;
    for (const char *c = entry + length + 1; *c != '\0'; c++) {
        if (*c < 0x20 || *c > 0x7e) return false;
    }
    return true;
}
