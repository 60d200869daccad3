// Which environment variables a shim may have.
#pragma once

#include <stdbool.h>

// "NAME=VALUE" with a plain name that does not steer the loader, malloc or the C library, and a printable value.
bool environment_is_sound(const char *entry);
