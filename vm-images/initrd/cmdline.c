#include "initrd.h"

#include <stdlib.h>
#include <string.h>

#define KEY "verity="

// `length` lower-case hexadecimal digits, then the terminator.
static bool is_hex(const char *text, size_t length) { return strlen(text) == length && strspn(text, "0123456789abcdef") == length; }

static bool parse_value(char *value, struct verity *verity) {
    const char *blocks = strsep(&value, ":"), *root_hash = strsep(&value, ":");
    const char *salt = strsep(&value, ":"), *file_system = value;
    char *end;
    if (root_hash == NULL || salt == NULL || file_system == NULL) return false;
    verity->blocks = strtoull(blocks, &end, 10);
    if (*blocks < '1' || *blocks > '9' || *end != '\0' || verity->blocks > 1ull << 32) return false;
    if (!is_hex(root_hash, 64) || !is_hex(salt, 64) || strcmp(file_system, "erofs") != 0) return false;
    memcpy(verity->root_hash, root_hash, 65);
    memcpy(verity->salt, salt, 65);
    memcpy(verity->file_system, "erofs", 6);
    return true;
}

void parse_verity(const char *command_line, struct verity *verity) {
    char text[COMMAND_LINE_SIZE];
    if (strlen(command_line) >= sizeof text) give_up("command line", "too long");
    strcpy(text, command_line);
    bool found = false;
    char *rest = text;
    for (char *word = strsep(&rest, " \n"); word != NULL; word = strsep(&rest, " \n")) {
        if (strncmp(word, KEY, strlen(KEY)) != 0) continue;
        // Two of them: which one was meant is nothing to guess at.
        if (found || !parse_value(word + strlen(KEY), verity)) give_up("command line", "verity=");
        found = true;
    }
    if (!found) give_up("command line", "no verity=");
}
