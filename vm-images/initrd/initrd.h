// The initrd's one program: from the kernel to the verified root. Every step ends the machine when it fails.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DISK_NAME_SIZE 64
#define COMMAND_LINE_SIZE 4096

// What `verity=<data blocks>:<root hash>:<salt>:<file system>` on the measured command line says. Blocks are 4096 bytes.
struct verity {
    uint64_t blocks;
    char root_hash[65];
    char salt[65];
    char file_system[16];
};

// Writes the message to the console and powers the machine off.
_Noreturn void give_up(const char *step, const char *detail);

// Each with the parameters that the command line has for it: "name.parameter=value", the name with '_' for '-'.
void load_modules(const char *command_line);                    // modules.c
void parse_verity(const char *command_line, struct verity *verity); // cmdline.c
// The device node of the disk whose serial begins with "root". Waits up to 10 s for it.
void find_root_disk(char node[DISK_NAME_SIZE]); // disk.c
// Makes the device-mapper device and returns its node.
const char *open_verity(const struct verity *verity, const char *disk); // verity.c
