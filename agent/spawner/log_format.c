#include "log_format.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIRST_LEVEL '3'

static const char *const NAMES[] = {"error", "warning", "notice", "info", "debug"};
static const char *const WORDS[] = {"ERROR", "WARNING", "NOTICE", "INFO", "DEBUG"};
#define LEVELS (sizeof NAMES / sizeof NAMES[0])

static bool is_journal(const char *stream) {
    struct stat output;
    char name[64];
    if (stream == NULL || fstat(STDERR_FILENO, &output) != 0) return false;
    snprintf(name, sizeof name, "%llu:%llu", (unsigned long long)output.st_dev, (unsigned long long)output.st_ino);
    return strcmp(stream, name) == 0;
}

static const char *after(const char *text, const char *start) {
    return strncmp(text, start, strlen(start)) == 0 ? text + strlen(start) : NULL;
}

struct log_settings log_settings(const char *asked, const char *stream) {
    struct log_settings settings = {is_journal(stream), '6', false};
    if (asked == NULL) return settings;
    const char *journal = after(asked, "journal:"), *plain = after(asked, "plain:");
    const char *level = journal != NULL ? journal : plain != NULL ? plain : asked;
    for (size_t i = 0; i < LEVELS; i++) {
        if (strcmp(level, NAMES[i]) != 0) continue;
        settings.least = (char)(FIRST_LEVEL + i);
        if (level != asked) settings.journal = journal != NULL;
        return settings;
    }
    settings.unreadable = true;
    return settings;
}

const char *log_word(const struct log_settings *settings) {
    static char word[32];
    snprintf(word, sizeof word, "%s:%s", settings->journal ? "journal" : "plain", NAMES[settings->least - FIRST_LEVEL]);
    return word;
}

static void keep_printable(char *text, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f) text[i] = '?';
    }
}

size_t format_log_line(char *line, size_t size, const struct log_settings *settings, const char *component, const char *format, va_list arguments) {
    char level = format[0] == '<' && format[2] == '>' ? format[1] : '6';
    if (format[0] == '<') format += 3;
    if (level > settings->least) return 0;
    int start = settings->journal ? snprintf(line, size, "<%c>%s: ", level, component)
                                  : snprintf(line, size, "%s %s: ", WORDS[level - FIRST_LEVEL], component);
    if (start < 0 || (size_t)start >= size) return 0;
    int more = vsnprintf(line + start, size - (size_t)start, format, arguments);
    size_t length = (size_t)start + (more < 0 ? 0 : (size_t)more);
    if (length > size - 2) { // no room for the line feed
        length = size - 1;
        memcpy(line + length - 3, "...", 3);
    }
    keep_printable(line, length);
    line[length++] = '\n';
    return length;
}
