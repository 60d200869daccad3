// The directory of the private roots, where it is not the image's own.
#pragma once

// Takes it for as long as this process lives, made if need be, and clears away what a spawner left there that was killed.
// 0, or -1 with a line in the log: another one lives, or it is not only the spawner's.
int take_run_dir(const char *path);
