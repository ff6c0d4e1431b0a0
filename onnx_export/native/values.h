/*
 * Symbols to values, written where they belong in the result (docs/spec/container.md, "Values"; onnx.md, "Bodies").
 *
 * Included by the code of each instruction set: these are plain loops that the compiler makes vectors of.
 */
#ifndef TANSOR_VALUES_H
#define TANSOR_VALUES_H

#include "tansor.h"

/* An initializer may begin at any byte of its file. */
typedef float unaligned_float __attribute__((aligned(1)));

/* Numbers for neighbouring elements: the next `count` of them, each `step` (0 or 1) behind the one before. */
typedef struct {
    uint64_t offset, step, count;
} Run;

static inline Run run_at(const Broadcast *broadcast, uint64_t element) {
    if (broadcast->rank == 0) return (Run){0, 0, UINT64_MAX};
    size_t axis = broadcast->rank - 1;
    uint64_t place = element % broadcast->size[axis];
    Run run = {place * broadcast->stride[axis], broadcast->stride[axis], broadcast->size[axis] - place};
    while (axis > 0) {
        element /= broadcast->size[axis--];
        run.offset += element % broadcast->size[axis] * broadcast->stride[axis];
    }
    return run;
}

/* ---------------------------------------------------------------------------------------------------------------
 * Weights: one difference, one product in float32, one rounding to the type, half to even
 */

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#if !defined(TANSOR_HALVES) /* an instruction set that converts says how */
static inline uint16_t to_float16(float value) {
    uint32_t bits = bits_of(value), size = bits & 0x7FFFFFFF;
    uint32_t normal = (size + 0xFFF + (size >> 13 & 1) - 0x38000000) >> 13;
    uint32_t small = bits_of(float_of(size) + 0.5f) - 0x3F000000; /* the sum rounds where subnormal halves end */
    uint32_t special = size > 0x7F800000 ? 0x7E00 | (size >> 13 & 0x3FF) : 0x7C00;
    uint32_t half = size < 0x38800000 ? small : size >= 0x47800000 ? special : normal;
    return (uint16_t)(half | (bits >> 16 & 0x8000));
}

static inline void to_halves(const float *restrict values, uint32_t count, uint16_t *restrict halves) {
    for (uint32_t i = 0; i < count; i++) halves[i] = to_float16(values[i]);
}
#endif

static inline uint16_t to_bfloat16(float value) {
    uint32_t bits = bits_of(value);
    uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    return (uint16_t)((bits & 0x7FFFFFFF) > 0x7F800000 ? bits >> 16 | 0x40 : rounded);
}

static inline void weigh(const uint8_t *restrict symbols, uint32_t count, const unaligned_float *restrict scale,
                         uint64_t scale_step, const uint8_t *restrict zero, uint64_t zero_step,
                         float *restrict values) {
    const float one_scale = scale[0], one_zero = zero[0];
    if (zero_step) {
        for (uint32_t i = 0; i < count; i++) {
            values[i] = ((float)symbols[i] - (float)zero[i]) * scale[i * scale_step];
        }
    } else if (scale_step) {
        for (uint32_t i = 0; i < count; i++) values[i] = ((float)symbols[i] - one_zero) * scale[i];
    } else {
        for (uint32_t i = 0; i < count; i++) values[i] = ((float)symbols[i] - one_zero) * one_scale;
    }
}

#if !defined(TANSOR_LINES) /* an instruction set that writes past the caches says how: aligned lines, and waiting for them */
static inline void write_line(uint8_t *out, const uint8_t *line) { memcpy(out, line, LINE); }
static void settle(void) {}
#endif

/* To memory that is not looked at again soon: its lines are not fetched first, and push nothing out of the caches. */
static inline void write_past_caches(void *to, const void *from, size_t size) {
    uint8_t *out = to;
    const uint8_t *data = from;
    size_t head = (size_t)least(-(uintptr_t)out % LINE, size);
    memcpy(out, data, head);
    out += head;
    data += head;
    size -= head;
    for (; size >= LINE; out += LINE, data += LINE, size -= LINE) write_line(out, data);
    memcpy(out, data, size);
}

/* At most 2 * ROW symbols in one run of both scale and zero point. */
static inline void write_weights(const Job *job, uint64_t at, const uint8_t *symbols, uint32_t count, Run scale_run,
                                 Run zero_run) {
    const Call *call = job->call;
    const unaligned_float *scale = (const unaligned_float *)call->scale.data + scale_run.offset;
    const uint8_t *zero = (const uint8_t *)call->zero_point.data + zero_run.offset;
    float values[2 * ROW];
    uint16_t halves[2 * ROW];
    uint8_t *out = (uint8_t *)job->out + at * (call->type == TYPE_FLOAT ? 4 : 2);
    if (call->type == TYPE_FLOAT) {
        weigh(symbols, count, scale, scale_run.step, zero, zero_run.step, job->past_caches ? values : (float *)out);
        if (job->past_caches) write_past_caches(out, values, 4 * count);
        return;
    }
    weigh(symbols, count, scale, scale_run.step, zero, zero_run.step, values);
    uint16_t *restrict rounded = job->past_caches ? halves : (uint16_t *)out;
    if (call->type == TYPE_FLOAT16) {
        to_halves(values, count, rounded);
    } else {
        for (uint32_t i = 0; i < count; i++) rounded[i] = to_bfloat16(values[i]);
    }
    if (job->past_caches) write_past_caches(out, halves, 2 * count);
}

/* ---------------------------------------------------------------------------------------------------------------
 * Integers: symbol minus zero point, which must be in the type's range
 */

static inline void lowest_and_highest(int type, int *low, int *high) {
    int bits = type == TYPE_INT4 || type == TYPE_UINT4 ? 4 : 8;
    bool is_signed = type == TYPE_INT4 || type == TYPE_INT8;
    *low = is_signed ? -(1 << (bits - 1)) : 0;
    *high = *low + (1 << bits) - 1;
}

/* Two to a byte, the first in the low half. A half byte at either end keeps its other half. */
static inline void write_halves(uint8_t *out, uint64_t at, const uint8_t *values, uint32_t count) {
    uint32_t i = 0;
    if (at % 2 && count) {
        out[at / 2] = (uint8_t)((out[at / 2] & 15) | values[0] << 4);
        i = 1;
    }
    uint8_t *pairs = out + (at + i) / 2;
    for (; i + 2 <= count; i += 2) *pairs++ = (uint8_t)((values[i] & 15) | values[i + 1] << 4);
    if (i < count) *pairs = (uint8_t)((*pairs & 0xF0) | (values[i] & 15));
}

static inline bool write_integers(const Job *job, uint64_t at, const uint8_t *symbols, uint32_t count, Run zero_run) {
    const uint8_t *zero = (const uint8_t *)job->call->zero_point.data + zero_run.offset;
    uint8_t values[2 * ROW];
    int type = job->call->type, low, high, outside = 0;
    lowest_and_highest(type, &low, &high);
    if (zero_run.step) {
        for (uint32_t i = 0; i < count; i++) {
            int value = symbols[i] - zero[i];
            outside |= (value < low) | (value > high);
            values[i] = (uint8_t)value;
        }
    } else {
        const int one_zero = zero[0];
        for (uint32_t i = 0; i < count; i++) {
            int value = symbols[i] - one_zero;
            outside |= (value < low) | (value > high);
            values[i] = (uint8_t)value;
        }
    }
    if (type == TYPE_INT4 || type == TYPE_UINT4) write_halves(job->out, at, values, count);
    else memcpy((uint8_t *)job->out + at, values, count);
    return !outside;
}

/* ---------------------------------------------------------------------------------------------------------------
 * Units to elements
 */

/* At most 2 * ROW symbols; the first is element `at`. */
static inline bool write_symbols(const Job *job, uint64_t at, const uint8_t *symbols, uint64_t count) {
    const Call *call = job->call;
    bool in_range = true;
    if (gives_symbols(call)) {
        memcpy((uint8_t *)job->out + at, symbols, count);
        return true;
    }
    while (count) {
        Run zero_run = run_at(&call->zero_point, at);
        Run scale_run = call->function->is_weight ? run_at(&call->scale, at) : zero_run;
        uint32_t here = (uint32_t)least(count, least(zero_run.count, scale_run.count));
        if (call->function->is_weight) write_weights(job, at, symbols, here, scale_run, zero_run);
        else in_range &= write_integers(job, at, symbols, here, zero_run);
        at += here;
        symbols += here;
        count -= here;
    }
    return in_range;
}

/* Units that lie behind one another in the tensor too. */
static inline bool write_placed(const Job *job, uint64_t at, const uint8_t *units, uint64_t count) {
    bool in_range = true;
    while (count) {
        uint32_t here = (uint32_t)least(count, ROW);
        if (job->call->function->packed) {
            uint16_t pairs[ROW]; /* two symbols each, the first in the low byte */
            for (uint32_t i = 0; i < here; i++) pairs[i] = (uint16_t)((units[i] | units[i] << 4) & 0x0F0F);
            in_range &= write_symbols(job, 2 * at, (const uint8_t *)pairs, least(2 * here, job->call->count - 2 * at));
        } else {
            in_range &= write_symbols(job, at, units, here);
        }
        at += here;
        units += here;
        count -= here;
    }
    return in_range;
}

/* Units of the stream from index `at` on: in mode partial their places are in the coded chunks, and the tail. */
static inline bool write_coded(const Job *job, uint64_t at, const uint8_t *units, uint64_t count) {
    const Call *call = job->call;
    const Chunks *cut = &call->chunks;
    if (call->function->mode != PARTIAL) return write_placed(job, at, units, count);
    uint64_t coded = cut->chunk * cut->coded, raw = cut->chunk * (cut->per_block - cut->coded);
    uint64_t blocks = call->raw_count / raw;
    bool in_range = true;
    while (count) {
        uint64_t block = least(at / coded, blocks); /* the tail is behind the last block */
        uint64_t here = block == blocks ? count : least(count, coded - at % coded);
        uint64_t place = at + raw * (block == blocks ? blocks : block + 1);
        in_range &= write_placed(job, place, units, here);
        at += here;
        units += here;
        count -= here;
    }
    return in_range;
}

#endif
