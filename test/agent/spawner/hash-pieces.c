// The spawner's SHA-256 over texts that come in pieces, from standard input to its end:
//     u8 way (0 portable, 1 as the spawner hashes) | u32 n | n x { u32 length | bytes }, little-endian
// Says in one byte whether the spawner uses the processor's extensions, then the digest of each text.
#include "../../../agent/spawner/sha256.h"
#include "../../../agent/spawner/sha256_blocks.h"

#include <stdio.h>
#include <stdlib.h>

// Each piece ends where its memory ends, at no address that is aligned: what reads further is found.
static int add_piece(struct sha256 *hash) {
    uint32_t length;
    if (fread(&length, sizeof length, 1, stdin) != 1) return -1;
    uint8_t *memory = malloc((size_t)length + 1);
    if (memory == NULL || fread(memory + 1, 1, length, stdin) != length) return -1;
    sha256_update(hash, memory + 1, length);
    free(memory);
    return 0;
}

static int hash_text(uint8_t way) {
    struct sha256 hash;
    uint8_t digest[32];
    uint32_t count;
    if (way > 1 || fread(&count, sizeof count, 1, stdin) != 1) return -1;
    sha256_begin(&hash);
    if (way == 0) hash.x86 = false;
    for (; count > 0; count--) {
        if (add_piece(&hash) != 0) return -1;
    }
    sha256_end(&hash, digest);
    return fwrite(digest, sizeof digest, 1, stdout) == 1 ? 0 : -1;
}

int main(void) {
    putchar(sha256_x86_usable() ? 1 : 0);
    for (int way; (way = getchar()) != EOF;) {
        if (hash_text((uint8_t)way) != 0) return 1;
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
