// One line of the log, agent/LOGS.md: the spawner's and the relay's.
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

// Begins a format, as in sd-daemon(3). A format without one is the ordinary course (info).
#define LEVEL_ERROR "<3>"
#define LEVEL_WARNING "<4>"
#define LEVEL_NOTICE "<5>"

struct log_settings {
    bool journal; // the form
    char least;   // '3' to '7'
    bool unreadable;
};

// From IRONCLAW_LOG and JOURNAL_STREAM, either of which may be NULL.
struct log_settings log_settings(const char *asked, const char *stream);

// The line with its line feed, at most `size` bytes. 0 when nobody wants it.
size_t format_log_line(char *line, size_t size, const struct log_settings *settings, const char *component, const char *format, va_list arguments);

// The value of IRONCLAW_LOG that says the same.
const char *log_word(const struct log_settings *settings);
