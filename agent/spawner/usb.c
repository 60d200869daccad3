// USB devices by vendor and product. The kernel shows a new one and authorises none (usbcore.authorized_default=0).
#include "shim_nodes.h"
#include "sysfile.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// "1-2.3". Root hubs are "usb1", interfaces "1-2.3:1.0".
static bool is_device(const char *name) {
    return name[0] >= '0' && name[0] <= '9' && strchr(name, '-') != NULL && strlen(name) < 32 &&
           strspn(name, "0123456789-.") == strlen(name);
}

static bool read_attribute(const char *directory, const char *name, int base, unsigned *value) {
    char path[MAX_PATH + 320], text[32], *end;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (!read_line(path, text, sizeof text) || text[0] == '\0') return false;
    *value = (unsigned)strtoul(text, &end, base);
    return *end == '\0';
}

static bool has_id(const char *directory, struct usb_id id) {
    unsigned vendor, product;
    return read_attribute(directory, "idVendor", 16, &vendor) && read_attribute(directory, "idProduct", 16, &product) &&
           vendor == id.vendor && product == id.product;
}

static int authorise(const char *directory) {
    char path[MAX_PATH + 320];
    unsigned authorised;
    if (!read_attribute(directory, "authorized", 10, &authorised)) return errno = ENODEV, -1;
    if (authorised == 1) return 0;
    snprintf(path, sizeof path, "%s/authorized", directory);
    return write_line(path, "1");
}

static int describe(struct usb_device *device) {
    bool numbered = read_attribute(device->directory, "busnum", 10, &device->bus) &&
                    read_attribute(device->directory, "devnum", 10, &device->number);
    if (!numbered || device->bus == 0 || device->bus > 999 || device->number == 0 || device->number > 127) return errno = ENODEV, -1;
    return authorise(device->directory);
}

int each_usb_device(const struct settings *settings, struct usb_id id,
                    int (*visit)(const struct usb_device *device, void *context), void *context) {
    char devices[MAX_PATH + 32], directory[MAX_PATH + 300];
    snprintf(devices, sizeof devices, "%s/bus/usb/devices", settings->sysfs);
    DIR *list = opendir(devices);
    if (list == NULL) return -1;
    int count = 0, result = 0;
    for (struct dirent *entry; result == 0 && (entry = readdir(list)) != NULL;) {
        struct usb_device device = {.directory = directory};
        snprintf(directory, sizeof directory, "%s/%s", devices, entry->d_name);
        if (!is_device(entry->d_name) || !has_id(directory, id)) continue;
        result = describe(&device) == 0 ? visit(&device, context) : -1;
        count++;
    }
    int problem = errno;
    closedir(list);
    errno = problem;
    return result == 0 ? count : -1;
}
