// SHA-256 by the x86 SHA extensions (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, SHA256RNDS2,
// SHA256MSG1, SHA256MSG2), several times as fast as in C.
#include "sha256_blocks.h"

#include <cpuid.h>
#include <immintrin.h>

#define LEAF_7_EBX_SHA (1u << 29)

static bool ask_processor(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & bit_SSSE3) == 0 || (c & bit_SSE4_1) == 0) return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & LEAF_7_EBX_SHA) != 0;
}

bool sha256_x86_usable(void) {
    static enum { NOT_ASKED, NO, YES } usable; // in a virtual machine the host answers each CPUID, which takes its time
    if (usable == NOT_ASKED) usable = ask_processor() ? YES : NO;
    return usable == YES;
}

#define LOAD(p) _mm_loadu_si128((const __m128i *)(p))
#define STORE(p, x) _mm_storeu_si128((__m128i *)(p), x)

// Four rounds. SHA256RNDS2 does two: of ABEF and CDGH it gives the new ABEF, and the old one is the new CDGH.
#define ROUNDS(t, words) \
    do { \
        __m128i sum = _mm_add_epi32(words, LOAD(SHA256_K + (t))); \
        cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum); \
        abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e)); \
    } while (0)

// The four words of the schedule after w0 to w3, in the place of w0.
#define EXTEND(w0, w1, w2, w3) \
    w0 = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8(w3, w2, 4)), w3)

__attribute__((target("sha,sse4.1,ssse3"))) void sha256_blocks_x86(uint32_t state[8], const uint8_t *blocks, size_t count) {
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    // Named from the highest lane down, as in the manual; in memory A is the lowest.
    __m128i cdab = _mm_shuffle_epi32(LOAD(state), 0xb1), efgh = _mm_shuffle_epi32(LOAD(state + 4), 0x1b);
    __m128i abef = _mm_alignr_epi8(cdab, efgh, 8), cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
    for (; count > 0; count--, blocks += 64) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w0 = _mm_shuffle_epi8(LOAD(blocks), big_endian), w1 = _mm_shuffle_epi8(LOAD(blocks + 16), big_endian);
        __m128i w2 = _mm_shuffle_epi8(LOAD(blocks + 32), big_endian), w3 = _mm_shuffle_epi8(LOAD(blocks + 48), big_endian);
        for (int t = 0;; t += 16) {
            ROUNDS(t, w0);
            ROUNDS(t + 4, w1);
            ROUNDS(t + 8, w2);
            ROUNDS(t + 12, w3);
            if (t == 48) break;
            EXTEND(w0, w1, w2, w3);
            EXTEND(w1, w2, w3, w0);
            EXTEND(w2, w3, w0, w1);
            EXTEND(w3, w0, w1, w2);
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    const __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    STORE(state, _mm_blend_epi16(feba, dchg, 0xf0));
    STORE(state + 4, _mm_alignr_epi8(dchg, feba, 8));
}
