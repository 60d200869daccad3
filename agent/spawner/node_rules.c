// By shape and not by name: who may make a node may give it any name, but the kernel knows what its number stands for.
#include "shim_nodes.h"

#include <stddef.h>
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

// The kernel's own kinds of devices. Each gives away a disk, a terminal, a network, the TPM, the machine's memory or management, or a way
// around the sandbox, even where a PCI device stands behind it. `misc` alone holds fuse, kvm, vhost, tun, vfio and userfaultfd. A name
// that ends in '*' stands for all that begin so. An HSM's own driver registers a class of its own, which nobody can list.
static const char *const GENERAL[] = {
    "accel", "bsg", "cec", "comedi", "counter", "cxl*", "dax", "dma_heap", "drm*", "dvb", "firewire", "fpga*", "genwqe", "gnss",
    "gpib_common", "gpio", "graphics", "habanalabs", "hidraw", "i2c-dev", "iLO", "infiniband*", "input", "ipmi", "kfd", "lirc", "media",
    "mei", "mem", "misc", "most*", "mtd", "ndctl", "nvme*", "ocxl", "ppdev", "ppp", "pps", "printer", "ptp", "remoteproc", "roccat",
    "rpmsg", "rtc", "scsi*", "sound", "spidev", "stm", "switchtec", "tee", "tpm*", "tty", "uacce", "ubi", "uio", "usb", "usbmisc",
    "usbmon", "vc", "vduse", "vfio*", "vhost*", "video4linux", "virtio-ports", "vme", "watchdog", "wwan", "xillybus",
};

static bool matches(const char *name, const char *pattern) {
    size_t length = strlen(pattern);
    if (pattern[length - 1] == '*') return strncmp(name, pattern, length - 1) == 0;
    return strcmp(name, pattern) == 0;
}

static bool is_general(const char *subsystem) {
    for (size_t i = 0; i < sizeof GENERAL / sizeof GENERAL[0]; i++) {
        if (matches(subsystem, GENERAL[i])) return true;
    }
    return false;
}

struct link {
    char target[MAX_PATH];
    const char *name; // the last component
};

static bool read_link(const struct settings *settings, dev_t device, const char *from_there, struct link *link) {
    char path[MAX_PATH + 64];
    int length = snprintf(path, sizeof path, "%s/dev/char/%u:%u%s", settings->sysfs, major(device), minor(device), from_there);
    if (length < 0 || (size_t)length >= sizeof path) return false;
    ssize_t n = readlink(path, link->target, sizeof link->target - 1);
    if (n <= 0 || (size_t)n == sizeof link->target - 1) return false;
    link->target[n] = '\0';
    const char *slash = strrchr(link->target, '/');
    link->name = slash == NULL ? link->target : slash + 1;
    return slash != NULL;
}

// What a driver makes of its own function stands as CLASS/NAME right below that function. What a general layer of the kernel makes
// of it (disks, HID, SCSI, media) stands deeper, or without CLASS.
static bool stands_below_function(const struct settings *settings, dev_t device, const struct link *place, const char *class) {
    struct link parent;
    size_t length = strlen(class);
    const char *end = place->name - 1; // its slash
    if ((size_t)(end - place->target) <= length || end[-(ptrdiff_t)length - 1] != '/' || strncmp(end - length, class, length) != 0) return false;
    if (!read_link(settings, device, "/../../subsystem", &parent)) return false;
    return strcmp(parent.name, "pci") == 0 || strcmp(parent.name, "usb") == 0;
}

bool device_is_acceptable(const struct settings *settings, dev_t device) {
    struct link place, class;
    if (major(device) == MAJOR_MEMORY) return is_harmless_memory(minor(device));
    // USB functions hang below a PCI controller.
    if (!read_link(settings, device, "", &place) || strstr(place.target, "/devices/pci") == NULL) return false;
    if (!read_link(settings, device, "/subsystem", &class) || is_general(class.name)) return false;
    return stands_below_function(settings, device, &place, class.name);
}
