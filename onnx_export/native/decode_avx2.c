/* The decoder on AVX2: eight lanes to a register. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,bmi2,f16c,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,bmi2,f16c,fma")
#endif
#include <immintrin.h>

#include "tansor.h"

#define TANSOR_HALVES
static inline void to_halves(const float *values, uint32_t count, uint16_t *halves) {
    uint32_t i = 0;
    for (; i + 8 <= count; i += 8) {
        _mm_storeu_si128((__m128i *)(halves + i), _mm256_cvtps_ph(_mm256_loadu_ps(values + i), 0));
    }
    for (; i < count; i++) halves[i] = _cvtss_sh(values[i], 0);
}

#define TANSOR_LINES
static inline void write_line(uint8_t *out, const uint8_t *line) {
    const __m256i *from = (const __m256i *)line;
    _mm256_stream_si256((__m256i *)out, _mm256_loadu_si256(from));
    _mm256_stream_si256((__m256i *)out + 1, _mm256_loadu_si256(from + 1));
}
static void settle(void) { _mm_sfence(); }

#define WIDTH 8
#define ROWS_AT_ONCE 6
#define MULTIPLY_ADD _mm256_fmadd_ps
#include "product.h"
#include "tile.h"

enum { WIDE = 8 };

/* From bit `position` on, at least 57 bits of each lane, or what is left: the low and the high 32. */
static inline void load_windows(const Steps *steps, __m256i position, __m256i *low, __m256i *high) {
    __m256i byte = _mm256_min_epu32(_mm256_srli_epi32(position, 3), _mm256_set1_epi32((int)steps->last_byte));
    __m256i shift = _mm256_sub_epi32(position, _mm256_slli_epi32(byte, 3));
    const long long *data = (const long long *)steps->data; /* an address only, the index counts bytes */
    __m256i a = _mm256_i32gather_epi64(data, _mm256_castsi256_si128(byte), 1);
    __m256i b = _mm256_i32gather_epi64(data, _mm256_extracti128_si256(byte, 1), 1);
    a = _mm256_srlv_epi64(a, _mm256_cvtepu32_epi64(_mm256_castsi256_si128(shift)));
    b = _mm256_srlv_epi64(b, _mm256_cvtepu32_epi64(_mm256_extracti128_si256(shift, 1)));
    __m256 first = _mm256_castsi256_ps(a), second = _mm256_castsi256_ps(b);
    __m256i even = _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0x88));
    __m256i odd = _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0xDD));
    *low = _mm256_permute4x64_epi64(even, 0xD8);
    *high = _mm256_permute4x64_epi64(odd, 0xD8);
}

/* The low 32 bits of high:low >> count, the count below 32. */
static inline __m256i shift_in(__m256i low, __m256i high, __m256i count) {
    __m256i rest = _mm256_sub_epi32(_mm256_set1_epi32(32), count);
    return _mm256_or_si256(_mm256_srlv_epi32(low, count), _mm256_sllv_epi32(high, rest));
}

static uint32_t step_part(const Steps *steps, uint32_t *states, uint32_t *positions, uint32_t keep, uint8_t *row) {
    __m256i position = _mm256_load_si256((const __m256i *)positions);
    __m256i state = _mm256_load_si256((const __m256i *)states), low, high;
    __m256i used = _mm256_setzero_si256(), units = used, leaders = used;
    load_windows(steps, position, &low, &high);
    __m256i word = low;
    for (int step = 0; step < GROUP; step++) {
        __m256i entry = _mm256_i32gather_epi32((const int *)steps->table, state, 4);
        __m256i count = _mm256_and_si256(entry, _mm256_set1_epi32(step == GROUP - 1 ? (int)keep : 31));
        if (step == 2) word = shift_in(low, high, used); /* 24 bits at most */
        __m256i bits = _mm256_andnot_si256(_mm256_sllv_epi32(_mm256_set1_epi32(-1), count), word);
        word = _mm256_srlv_epi32(word, count);
        state = _mm256_add_epi32(_mm256_srli_epi32(entry, 16), bits);
        used = _mm256_add_epi32(used, count);
        leaders = _mm256_or_si256(leaders, entry);
        __m256i unit = _mm256_and_si256(_mm256_srli_epi32(entry, 8), _mm256_set1_epi32(255));
        units = _mm256_or_si256(units, _mm256_slli_epi32(unit, 8 * step));
    }
    _mm256_store_si256((__m256i *)states, state);
    _mm256_store_si256((__m256i *)positions, _mm256_add_epi32(position, used));
    _mm256_storeu_si256((__m256i *)row, units);
    return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_slli_epi32(leaders, 24)));
}

static Mask step_group(const Steps *steps, Lanes *lanes, unsigned count, uint32_t keep, uint8_t row[ROW]) {
    Mask met = {{0}};
    for (unsigned lane = 0; lane < count; lane += WIDE) { /* parts do not wait for each other: the processor overlaps them */
        uint64_t part = step_part(steps, lanes->state + lane, lanes->position + lane, keep, row + GROUP * lane);
        met.half[lane / 64] |= part << lane % 64;
    }
    return met;
}

const Decoder avx2_decoder = {"avx2", decode_tile, write_placed, write_coded, multiply, settle};

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
