#include "device_mapper.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

// One ioctl's buffer: header, one target, its parameters. DM_GET_TARGET_VERSION answers into the same place.
struct command {
    struct dm_ioctl header;
    struct dm_target_spec target;
    char parameters[512];
};

static int control(unsigned long code, const char *name, struct command *command) {
    struct dm_ioctl *header = &command->header;
    int fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
    if (fd < 0) return -1;
    header->version[0] = DM_VERSION_MAJOR;
    header->data_size = sizeof *command;
    header->data_start = offsetof(struct command, target);
    header->flags |= DM_SECURE_DATA_FLAG; // the kernel wipes its copy of the buffer
    snprintf(header->name, sizeof header->name, "%s", name);
    int result = ioctl(fd, code, command);
    int problem = errno;
    close(fd);
    errno = problem;
    return result < 0 ? -1 : 0;
}

bool dm_has_target(const char *target) {
    struct command command = {0};
    return control(DM_GET_TARGET_VERSION, target, &command) == 0;
}

static int load(const char *name, const char *target, uint64_t sectors, const char *parameters) {
    struct command command = {.header = {.target_count = 1}, .target = {.length = sectors}};
    int length = snprintf(command.parameters, sizeof command.parameters, "%s", parameters);
    if (length < 0 || (size_t)length >= sizeof command.parameters) return errno = E2BIG, -1;
    snprintf(command.target.target_type, sizeof command.target.target_type, "%s", target);
    return control(DM_TABLE_LOAD, name, &command);
}

int dm_open(const char *name, const char *target, uint64_t sectors, const char *parameters, dev_t *device) {
    struct command create = {0}, resume = {0}; // DM_DEV_SUSPEND without DM_SUSPEND_FLAG: resume
    if (control(DM_DEV_CREATE, name, &create) != 0) return -1;
    *device = (dev_t)create.header.dev;
    if (load(name, target, sectors, parameters) == 0 && control(DM_DEV_SUSPEND, name, &resume) == 0) return 0;
    int problem = errno;
    dm_remove(name);
    errno = problem;
    return -1;
}

int dm_remove(const char *name) {
    struct command command = {0};
    return control(DM_DEV_REMOVE, name, &command);
}
