// By shape and not by name: who may make a node may give it any name, but the kernel knows what its number stands for.
#include "shim_nodes.h"

#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define MAJOR_MEMORY 1

// Bytes from nowhere and to nowhere. Never mem, kmem, port or kmsg.
static bool is_harmless_memory(unsigned minor) {
    static const unsigned MINORS[] = {3, 5, 7, 8, 9}; // null, zero, full, random, urandom
    for (size_t i = 0; i < sizeof MINORS / sizeof MINORS[0]; i++) {
        if (minor == MINORS[i]) return true;
    }
    return false;
}

// The kernel's general kinds of devices. Each gives away a disk, a terminal, the TPM, the machine's memory or a way around the
// sandbox, even where a PCI device stands behind it. `misc` alone holds fuse, kvm, vhost, tun, vfio and userfaultfd.
static const char *const GENERAL[] = {
    "accel", "bsg", "cxl", "dax", "drm", "drm_dp_aux_dev", "dvb", "firewire", "gpio", "graphics", "i2c-dev", "infiniband",
    "infiniband_mad", "infiniband_verbs", "input", "media", "mei", "mem", "misc", "mtd", "nvme", "nvme-generic", "pps",
    "ptp", "rtc", "scsi_changer", "scsi_generic", "scsi_tape", "sound", "spidev", "tpm", "tpmrm", "tty", "uio", "usb",
    "usbmon", "vc", "vfio", "vfio-dev", "vhost-vdpa", "video4linux", "virtio-ports", "watchdog", "wwan",
};

static bool is_general(const char *subsystem) {
    for (size_t i = 0; i < sizeof GENERAL / sizeof GENERAL[0]; i++) {
        if (strcmp(subsystem, GENERAL[i]) == 0) return true;
    }
    return false;
}

static bool read_target(const char *link, char *target, size_t capacity) {
    ssize_t n = readlink(link, target, capacity - 1);
    if (n <= 0 || (size_t)n == capacity - 1) return false;
    target[n] = '\0';
    return true;
}

bool device_is_acceptable(const struct settings *settings, dev_t device) {
    char link[MAX_PATH + 64], target[MAX_PATH];
    if (major(device) == MAJOR_MEMORY) return is_harmless_memory(minor(device));
    snprintf(link, sizeof link, "%s/dev/char/%u:%u", settings->sysfs, major(device), minor(device));
    // USB functions hang below a PCI controller.
    if (!read_target(link, target, sizeof target) || strstr(target, "/devices/pci") == NULL) return false;
    strcat(link, "/subsystem");
    if (!read_target(link, target, sizeof target)) return false;
    const char *slash = strrchr(target, '/');
    return slash != NULL && !is_general(slash + 1);
}
