/* CRC-32 (docs/spec/frame.md, "Checksums"): folded by carry-less products, or eight bytes at a time by tables. */
#include <pthread.h>

#include "tansor.h"

static uint32_t table[8][256];

static void make_table(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
        table[0][byte] = crc;
    }
    for (int place = 1; place < 8; place++) {
        for (int byte = 0; byte < 256; byte++) {
            uint32_t crc = table[place - 1][byte];
            table[place][byte] = crc >> 8 ^ table[0][crc & 255];
        }
    }
}

/* Of a remainder that is not yet inverted at either end. */
static uint32_t by_tables(uint32_t crc, const uint8_t *bytes, uint64_t size) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_table);
    for (; size >= 8; size -= 8, bytes += 8) {
        uint64_t eight = load64(bytes) ^ crc;
        crc = 0;
        for (int place = 0; place < 8; place++) crc ^= table[7 - place][eight >> 8 * place & 255];
    }
    for (; size; size--) crc = crc >> 8 ^ table[0][(crc ^ *bytes++) & 255];
    return crc;
}

#if defined(__x86_64__)
#include <immintrin.h>

enum { FOLDED = 64 };

__attribute__((target("sse4.1,pclmul"))) static inline __m128i fold(__m128i sum, __m128i powers, __m128i next) {
    __m128i low = _mm_clmulepi64_si128(sum, powers, 0x00), high = _mm_clmulepi64_si128(sum, powers, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

/* Whole runs of 64 bytes, at least one, folded into sixteen bytes of the same remainder. The numbers are powers of x
 * modulo the polynomial, bits reversed: 544 and 480 for 64 bytes on, 160 and 96 for 16 (V. Gopal et al., "Fast CRC
 * Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel, 2009). */
__attribute__((target("sse4.1,pclmul"))) static uint32_t by_products(uint32_t crc, const uint8_t *bytes, uint64_t runs) {
    const __m128i far = _mm_set_epi64x(0x01C6E41596, 0x0154442BD4), near = _mm_set_epi64x(0x00CCAA009E, 0x01751997D0);
    __m128i sums[4];
    uint8_t rest[16];
    for (int i = 0; i < 4; i++) sums[i] = _mm_loadu_si128((const __m128i *)(bytes + 16 * i));
    sums[0] = _mm_xor_si128(sums[0], _mm_cvtsi32_si128((int)crc));
    for (bytes += FOLDED; --runs; bytes += FOLDED) {
        for (int i = 0; i < 4; i++) sums[i] = fold(sums[i], far, _mm_loadu_si128((const __m128i *)(bytes + 16 * i)));
    }
    for (int i = 1; i < 4; i++) sums[i] = fold(sums[i - 1], near, sums[i]);
    _mm_storeu_si128((__m128i *)rest, sums[3]);
    return by_tables(0, rest, sizeof rest);
}

static bool has_products(void) { return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1"); }
#else
enum { FOLDED = 64 };
static uint32_t by_products(uint32_t crc, const uint8_t *bytes, uint64_t runs) {
    return by_tables(crc, bytes, FOLDED * runs);
}
static bool has_products(void) { return false; }
#endif

uint32_t crc32_of(uint32_t crc, const void *data, uint64_t size) {
    const uint8_t *bytes = data;
    uint64_t folded = size >= FOLDED && has_products() ? size / FOLDED * FOLDED : 0;
    crc = ~crc;
    if (folded) crc = by_products(crc, bytes, folded / FOLDED);
    return ~by_tables(crc, bytes + folded, size - folded);
}
