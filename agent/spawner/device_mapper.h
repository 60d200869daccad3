// Device-mapper devices of one target each, by ioctl: Documentation/admin-guide/device-mapper, without libdevmapper.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

// The kernel has this target. False, too, when there is no device mapper at all.
bool dm_has_target(const char *target);
// Makes and starts a device that `target` with these parameters maps from sector 0. 0, or -1 with errno and no device left.
int dm_open(const char *name, const char *target, uint64_t sectors, const char *parameters, dev_t *device);
int dm_remove(const char *name);
