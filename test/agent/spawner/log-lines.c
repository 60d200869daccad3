// The spawner's and the relay's lines: log-lines ASKED STREAM LEVEL SIZE COMPONENT MESSAGE. "-" stands for a variable that is not set.
#include "../../../agent/spawner/log_format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t line_of(char *line, size_t size, const struct log_settings *settings, const char *component, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    size_t length = format_log_line(line, size, settings, component, format, arguments);
    va_end(arguments);
    return length;
}

static const char *given(const char *text) { return strcmp(text, "-") == 0 ? NULL : text; }

int main(int argc, char **argv) {
    if (argc != 7) return 2;
    struct log_settings settings = log_settings(given(argv[1]), given(argv[2]));
    const char *format = argv[3][0] == '3' ? LEVEL_ERROR "%s" : argv[3][0] == '4' ? LEVEL_WARNING "%s" : argv[3][0] == '5' ? LEVEL_NOTICE "%s" : "%s";
    size_t size = (size_t)atoi(argv[4]);
    char *line = malloc(size); // exactly so much: a byte more is found
    size_t length = line_of(line, size, &settings, argv[5], format, argv[6]);
    if (settings.unreadable) fputs("unreadable ", stdout);
    printf("%s\n", log_word(&settings));
    fwrite(line, 1, length, stdout);
    free(line);
    return 0;
}
