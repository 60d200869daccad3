// Device nodes of a shim: which may exist there, and how they come there.
#pragma once

#include "shim_request.h"

// Makes the nodes that were asked for in the private root, which is not sealed yet.
enum outcome place_nodes(const struct spawner *spawner, const struct start *start, const char *root, struct reply *reply);

// node_rules.c: whether a shim may have the device of this number at all. Never one of USB's own nodes.
bool device_is_acceptable(const struct settings *settings, dev_t device);

struct usb_device {
    const char *directory; // in sysfs
    unsigned bus;
    unsigned number;
};

// usb.c: authorises every device of this id and calls `visit` for it. How many there are, or -1 with errno; a `visit` that does
// not return 0 ends it.
int each_usb_device(const struct settings *settings, struct usb_id id,
                    int (*visit)(const struct usb_device *device, void *context), void *context);
