// What libusb and libudev read about a device before they open its node, as files in a shim's private root.
#pragma once

#include "shim_request.h"

// `directory` is the device's, below the machine's sysfs. Copies, as they are now: the shim sees no other device, and what it
// reads runs none of the kernel's code for this one. 0, or -1 with errno.
int copy_usb_attributes(const struct settings *settings, const struct start *start, const char *root, const char *directory);
