#include "initrd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DIRECTORY "/modules"

static int is_module(const struct dirent *entry) {
    size_t length = strlen(entry->d_name);
    return length > 3 && strcmp(entry->d_name + length - 3, ".ko") == 0;
}

// By name: the build numbers them so that each comes after what it needs.
static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

static bool processor_has(const char *flag) {
    char line[8192];
    bool found = false;
    FILE *file = fopen("/proc/cpuinfo", "re");
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "flags", 5) != 0) continue;
        for (char *rest = line, *word; (word = strsep(&rest, " \n")) != NULL;) found |= strcmp(word, flag) == 0;
    }
    if (file != NULL) fclose(file);
    return found;
}

// "08-name@flag.ko" is for processors with that flag; the kernel has other code for the rest.
static bool is_wanted(const char *name) {
    char flag[32];
    const char *at = strchr(name, '@');
    if (at == NULL) return true;
    snprintf(flag, sizeof flag, "%.*s", (int)strcspn(at + 1, "."), at + 1);
    return processor_has(flag);
}

// "08-name.ko" or "08-name@flag.ko"; the build writes '_' for '-'.
static bool module_name(const char *file, char *name, size_t capacity) {
    const char *start = strchr(file, '-');
    size_t length = start == NULL ? 0 : strcspn(++start, "@.");
    if (length == 0 || length >= capacity) return false;
    memcpy(name, start, length);
    name[length] = '\0';
    return true;
}

// The command line is measured, and the kernel leaves "module.parameter=value" on it to whoever loads the module.
static void collect_parameters(const char *command_line, const char *file, char *parameters, size_t capacity) {
    char text[COMMAND_LINE_SIZE], name[64];
    size_t used = 0;
    parameters[0] = '\0';
    if (!module_name(file, name, sizeof name) || strlen(command_line) >= sizeof text) give_up(file, "name or command line");
    strcpy(text, command_line);
    size_t length = strlen(name);
    for (char *rest = text, *word; (word = strsep(&rest, " \n")) != NULL;) {
        if (strncmp(word, name, length) != 0 || word[length] != '.') continue;
        int written = snprintf(parameters + used, capacity - used, "%s%s", used == 0 ? "" : " ", word + length + 1);
        // Less than what was measured must not be what runs.
        if (written < 0 || (used += (size_t)written) >= capacity) give_up(file, "parameters too long");
    }
}

static void load(const char *name, const char *command_line) {
    char path[300], parameters[512];
    collect_parameters(command_line, name, parameters, sizeof parameters);
    snprintf(path, sizeof path, DIRECTORY "/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, parameters, 0) != 0 && errno != EEXIST)) give_up(path, strerror(errno));
    close(fd);
}

void load_modules(const char *command_line) {
    struct dirent **entries;
    int count = scandir(DIRECTORY, &entries, is_module, by_name);
    if (count < 0) give_up("modules", strerror(errno));
    for (int i = 0; i < count; i++) {
        if (is_wanted(entries[i]->d_name)) load(entries[i]->d_name, command_line);
        free(entries[i]);
    }
    free(entries);
}
