// dm-verity by hand: the three ioctls of Documentation/admin-guide/device-mapper/verity.rst's table, without libdevmapper.
#include "initrd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <unistd.h>

#define NAME "root"
#define BLOCK 4096
#define SECTORS_PER_BLOCK (BLOCK / 512)

// One ioctl's buffer: header, one target, its parameters.
struct request {
    struct dm_ioctl header;
    struct dm_target_spec target;
    char parameters[1024];
};

static void control(int fd, unsigned long code, struct request *request, const char *step) {
    struct dm_ioctl *header = &request->header;
    header->version[0] = DM_VERSION_MAJOR;
    header->version[1] = 0;
    header->version[2] = 0;
    header->data_size = sizeof *request;
    header->data_start = offsetof(struct request, target);
    memcpy(header->name, NAME, sizeof NAME);
    if (ioctl(fd, code, request) != 0) give_up(step, strerror(errno));
}

// Data and hash tree on one disk, the tree right behind the data. A block that does not verify stops the machine at once:
// a root that is only partly there is worth nothing. Blocks are verified whenever they are read, because the disk is the
// host's and may change at any time.
static void fill_table(struct request *request, const struct verity *verity, const char *disk) {
    request->header.target_count = 1;
    request->header.flags = DM_READONLY_FLAG;
    request->target.length = verity->blocks * SECTORS_PER_BLOCK;
    memcpy(request->target.target_type, "verity", sizeof "verity");
    int length = snprintf(request->parameters, sizeof request->parameters, "1 %s %s %d %d %llu %llu sha256 %s %s 1 panic_on_corruption", disk,
                          disk, BLOCK, BLOCK, (unsigned long long)verity->blocks, (unsigned long long)verity->blocks, verity->root_hash, verity->salt);
    if (length < 0 || (size_t)length >= sizeof request->parameters) give_up("dm-verity", "parameters");
}

const char *open_verity(const struct verity *verity, const char *disk) {
    static char node[64];
    int fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
    if (fd < 0) give_up("/dev/mapper/control", strerror(errno));
    struct request create = {0}, table = {0}, resume = {0};
    // As whoever looks later knows it by, in sysfs.
    snprintf(create.header.uuid, sizeof create.header.uuid, "CRYPT-VERITY-%s-" NAME, verity->root_hash);
    control(fd, DM_DEV_CREATE, &create, "dm-verity: create");
    fill_table(&table, verity, disk);
    control(fd, DM_TABLE_LOAD, &table, "dm-verity: table");
    resume.header.flags = DM_READONLY_FLAG; // without DM_SUSPEND_FLAG: resume
    control(fd, DM_DEV_SUSPEND, &resume, "dm-verity: resume");
    close(fd);
    snprintf(node, sizeof node, "/dev/dm-%u", minor((dev_t)create.header.dev));
    for (int i = 0; i < 200; i++) {
        if (access(node, F_OK) == 0) return node;
        usleep(10000);
    }
    give_up(node, "does not appear");
}
