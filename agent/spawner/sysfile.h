// Small text files of /proc and /sys.
#pragma once

#include <stdbool.h>
#include <stddef.h>

// The first line without its newline; false when the file cannot be read or the line does not fit.
bool read_line(const char *path, char *text, size_t capacity);
// 0, or -1 with errno.
int write_line(const char *path, const char *text);
