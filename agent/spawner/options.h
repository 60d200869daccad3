// What the spawner is told, and what it is told as PID 1: nothing.
#pragma once

#include "spawner.h"

struct settings image_settings(void);
// `--service` and its options. Ends the program when they cannot be used.
struct settings parse_options(int argc, char **argv);
