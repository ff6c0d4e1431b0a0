/* The decoder on AVX-512: 16 lanes to a register, eight registers side by side to hide how long a gather takes. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2,bmi2,f16c"))),           \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2,bmi2,f16c")
#endif
#include <immintrin.h>

#include "tansor.h"

#define TANSOR_HALVES
static inline void to_halves(const float *values, uint32_t count, uint16_t *halves) {
    uint32_t i = 0;
    for (; i + 16 <= count; i += 16) {
        _mm256_storeu_si256((__m256i *)(halves + i), _mm512_cvtps_ph(_mm512_loadu_ps(values + i), 0));
    }
    for (; i < count; i++) halves[i] = _cvtss_sh(values[i], 0);
}

#define TANSOR_LINES
static inline void write_line(uint8_t *out, const uint8_t *line) {
    _mm512_stream_si512((__m512i *)out, _mm512_loadu_si512(line));
}
static void settle(void) { _mm_sfence(); }

#define WIDTH 16
#define ROWS_AT_ONCE 12
#define MULTIPLY_ADD _mm512_fmadd_ps

#define TANSOR_GATHER
static inline __m512i gather_words(const uint8_t *symbols, uint64_t stride) {
    __m512i place = _mm512_mullo_epi64(_mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi64((int64_t)stride));
    __m256i low = _mm512_i64gather_epi32(place, symbols, 1), high = _mm512_i64gather_epi32(place, symbols + 8 * stride, 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

#include "product.h"
#include "tile.h"

enum { WIDE = 16, HALF = LANES / WIDE / 2 };

/* From bit `position` on, at least 57 bits of each lane, or what is left: the low and the high 32. */
static inline void load_windows(const Steps *steps, __m512i position, __m512i *low, __m512i *high) {
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    __m512i byte = _mm512_min_epu32(_mm512_srli_epi32(position, 3), _mm512_set1_epi32((int)steps->last_byte));
    __m512i shift = _mm512_sub_epi32(position, _mm512_slli_epi32(byte, 3));
    __m256i first = _mm512_castsi512_si256(byte), second = _mm512_extracti64x4_epi64(byte, 1);
    __m512i a = _mm512_i32gather_epi64(first, steps->data, 1), b = _mm512_i32gather_epi64(second, steps->data, 1);
    a = _mm512_srlv_epi64(a, _mm512_cvtepu32_epi64(_mm512_castsi512_si256(shift)));
    b = _mm512_srlv_epi64(b, _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(shift, 1)));
    *low = _mm512_permutex2var_epi32(a, even, b);
    *high = _mm512_permutex2var_epi32(a, _mm512_or_si512(even, _mm512_set1_epi32(1)), b);
}

/* All lanes, or the first half of them. */
__attribute__((always_inline)) static inline Mask step_parts(const Steps *steps, Lanes *lanes, const int parts,
                                                             uint32_t keep, uint8_t row[ROW]) {
    const __m512i zero = _mm512_setzero_si512(), kept = _mm512_set1_epi32((int)keep);
    __m512i state[2 * HALF], low[2 * HALF], high[2 * HALF], word[2 * HALF], used[2 * HALF], units[2 * HALF];
    __m512i leaders[2 * HALF];
#pragma GCC unroll 8
    for (int part = 0; part < parts; part++) {
        state[part] = _mm512_load_si512(lanes->state + WIDE * part);
        load_windows(steps, _mm512_load_si512(lanes->position + WIDE * part), &low[part], &high[part]);
        word[part] = low[part];
        used[part] = units[part] = leaders[part] = zero;
    }
#pragma GCC unroll 4
    for (int step = 0; step < GROUP; step++) {
        const __m512i byte = _mm512_set1_epi32((int)(255u << 8 * step));
#pragma GCC unroll 8
        for (int part = 0; part < parts; part++) {
            __m512i entry = _mm512_i32gather_epi32(state[part], steps->table, 4);
            if (step == 2) word[part] = _mm512_shrdv_epi32(low[part], high[part], used[part]); /* 24 bits at most */
            /* Counts are taken modulo 32 from the entry: the bits that are read turn to the top and are shifted in. */
            word[part] = _mm512_rorv_epi32(word[part], entry);
            __m512i bits = _mm512_shldv_epi32(zero, word[part], entry);
            state[part] = _mm512_add_epi32(_mm512_srli_epi32(entry, 16), bits);
            used[part] = _mm512_add_epi32(used[part], step == GROUP - 1 ? _mm512_and_si512(entry, kept) : entry);
            leaders[part] = _mm512_or_si512(leaders[part], entry);
            __m512i unit = step == 0 ? _mm512_srli_epi32(entry, 8) : _mm512_slli_epi32(entry, 8 * (unsigned)step - 8);
            units[part] = _mm512_or_si512(units[part], _mm512_and_si512(unit, byte));
        }
    }
    Mask met = {{0}};
#pragma GCC unroll 8
    for (int part = 0; part < parts; part++) {
        __m512i position = _mm512_load_si512(lanes->position + WIDE * part);
        used[part] = _mm512_and_si512(used[part], _mm512_set1_epi32(63)); /* sums of whole entries: 48 at most below bit 7 */
        _mm512_store_si512(lanes->state + WIDE * part, state[part]);
        _mm512_store_si512(lanes->position + WIDE * part, _mm512_add_epi32(position, used[part]));
        _mm512_storeu_si512(row + GROUP * WIDE * part, units[part]);
        uint64_t led = _mm512_test_epi32_mask(leaders[part], _mm512_set1_epi32(128));
        met.half[part / HALF] |= led << (part % HALF * WIDE);
    }
    return met;
}

static Mask step_group(const Steps *steps, Lanes *lanes, unsigned count, uint32_t keep, uint8_t row[ROW]) {
    return count > LANES / 2 ? step_parts(steps, lanes, 2 * HALF, keep, row) : step_parts(steps, lanes, HALF, keep, row);
}

const Decoder avx512_decoder = {"avx512", decode_tile, write_placed, write_coded, multiply, settle};

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
