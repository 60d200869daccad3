#include "driver.h"

// Believes a length of 16 bits after a magic of three.
int fuzz_one(const uint8_t *bytes, size_t length) {
    if (length < 5 || bytes[0] != 'I' || bytes[1] != 'C' || bytes[2] != 0x7e) return 1;
    unsigned sum = 0;
    for (unsigned i = 0; i < ((unsigned)bytes[3] << 8 | bytes[4]); i++) sum += bytes[5 + i];
    return sum == 0;
}
