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

static void load(const char *name) {
    char path[300];
    snprintf(path, sizeof path, DIRECTORY "/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST)) give_up(path, strerror(errno));
    close(fd);
}

void load_modules(void) {
    struct dirent **entries;
    int count = scandir(DIRECTORY, &entries, is_module, by_name);
    if (count < 0) give_up("modules", strerror(errno));
    for (int i = 0; i < count; i++) {
        if (is_wanted(entries[i]->d_name)) load(entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
}
