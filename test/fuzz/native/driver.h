// What every driver shares. It reads many `u32 length | bytes` (big-endian) from standard input and answers each one with
// `u32 refused | u32 n | n x { u32 place, u32 times }` (the machine's order) before the next one is run. Standard output
// is not a terminal's: the process that starts a driver reads it.
#pragma once

#include <stddef.h>
#include <stdint.h>

// The driver's own function: 0 accepted, 1 refused. `bytes` is a heap block of exactly `length` bytes.
int fuzz_one(const uint8_t *bytes, size_t length);

// For parsers that end the process: leaves `fuzz_one` with 1.
_Noreturn void fuzz_refuse(void);
