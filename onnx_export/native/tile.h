/*
 * A tile: 128 neighbouring lanes, four steps at a time, each time a row of 512 units that lie side by side.
 *
 * Included by decode_NAME.c, which says how one group of steps is done there:
 *     static Mask step_group(const Steps *steps, Lanes *lanes, unsigned count, uint32_t keep, uint8_t row[ROW])
 * decodes a row of `count` lanes, or of more, and tells the lanes that met a leader; `keep` is 0 in the last group, whose
 * last step reads no bits, else 31. It never reads outside `steps->data`, whatever the positions are.
 */
#ifndef TANSOR_TILE_H
#define TANSOR_TILE_H

#include "tansor.h"
#include "values.h"

/* Positions count bits from `data`; loads of eight bytes begin at `last_byte` or before. */
typedef struct {
    const uint8_t *data;
    uint32_t last_byte;
    const uint32_t *table;
} Steps;

typedef struct {
    uint32_t state[LANES], position[LANES];
    int64_t end[LANES]; /* where the next literal ends */
} __attribute__((aligned(64))) Lanes;

typedef struct {
    uint64_t half[LANES / 64]; /* a bit for each lane */
} Mask;

static Mask step_group(const Steps *steps, Lanes *lanes, unsigned count, uint32_t keep, uint8_t row[ROW]);

/* One lane, four steps; true if it met a leader. */
static inline bool step_lane(const Steps *steps, Lanes *lanes, unsigned lane, uint32_t keep, uint8_t *units) {
    uint32_t position = lanes->position[lane], state = lanes->state[lane], leaders = 0;
    uint32_t byte = (uint32_t)least(position >> 3, steps->last_byte);
    uint64_t window = load64(steps->data + byte) >> (least(position - 8 * byte, 63) & 63);
    for (unsigned step = 0; step < GROUP; step++) {
        uint32_t entry = steps->table[state];
        uint32_t count = entry & (step == GROUP - 1 ? keep : 31);
        units[step] = (uint8_t)(entry >> 8);
        leaders |= entry;
        state = (entry >> 16) + ((uint32_t)window & ((1u << count) - 1));
        window >>= count;
        position += count;
    }
    lanes->state[lane] = state;
    lanes->position[lane] = position;
    return leaders >> 7 & 1;
}

/* Put members in the place of leaders; literals are read backwards from the end of the lane. */
static inline void read_literals(const Job *job, const Steps *steps, uint64_t bytes, int64_t *end, uint8_t *units) {
    const Model *model = job->model;
    for (unsigned step = 0; step < GROUP; step++) {
        uint8_t leader = units[step];
        unsigned width = model->class_width[leader];
        if (!width) continue;
        *end -= width;
        uint32_t literal = *end < 0 ? 0 : read_field(steps->data, bytes, (uint64_t)*end, width);
        units[step] = job->call->stream.classes[model->class_members[leader] + literal];
    }
}

static inline void resolve(const Job *job, const Steps *steps, uint64_t bytes, Lanes *lanes, unsigned count,
                           Mask leaders, uint8_t row[ROW]) {
    for (unsigned half = 0; half < LANES / 64; half++) {
        for (uint64_t left = leaders.half[half]; left; left &= left - 1) {
            unsigned lane = 64 * half + (unsigned)__builtin_ctzll(left);
            if (lane < count) read_literals(job, steps, bytes, &lanes->end[lane], row + GROUP * lane);
        }
    }
}

/* States and places of the lanes from `first` on, in bits from the byte in which the first one begins. */
static inline void begin_lanes(const Stream *stream, uint64_t first, unsigned count, unsigned offset, Lanes *lanes) {
    uint64_t at = offset;
    for (unsigned lane = 0; lane < LANES; lane++) {
        if (lane >= count) { /* a copy, so that all vectors are whole */
            lanes->state[lane] = lanes->state[count - 1];
            lanes->position[lane] = lanes->position[count - 1];
            lanes->end[lane] = lanes->end[count - 1];
            continue;
        }
        uint64_t number = first + lane;
        lanes->state[lane] =
            read_field(stream->words, stream->word_bytes, number * stream->table_log, stream->table_log);
        lanes->position[lane] = (uint32_t)at;
        at += lane_bits(stream, number);
        lanes->end[lane] = (int64_t)at;
    }
}

enum { FEW_LANES = 8 }; /* so few are faster one by one */

static inline Mask step_rows(const Steps *steps, Lanes *lanes, unsigned count, uint32_t keep, uint8_t row[ROW]) {
    if (count > FEW_LANES) return step_group(steps, lanes, count, keep, row);
    Mask leaders = {{0}};
    for (unsigned lane = 0; lane < count; lane++) {
        leaders.half[0] |= (uint64_t)step_lane(steps, lanes, lane, keep, row + GROUP * lane) << lane;
    }
    return leaders;
}

/* Fields of 32 bits hold the positions in a tile, also those that damaged lanes run to. */
static inline bool fits(uint64_t bits, uint64_t groups) {
    return bits < UINT32_MAX && groups < UINT32_MAX && bits + 48 * groups + 64 < UINT32_MAX;
}

enum { AHEAD = 8 }; /* groups between fetching memory and using it */

/* A row of output lies far from the one before: it is fetched early, or each store waits for memory. Inlined always:
 * a call that only fetches looks as if it did nothing, and GCC removes it. */
__attribute__((always_inline)) static inline void fetch_ahead(const Job *job, uint64_t unit, const uint8_t *words) {
    const Call *call = job->call;
    if (unit + ROW <= call->unit_count && !job->past_caches) {
        uint64_t size = size_of(call) * (call->function->packed ? 2 : 1);
        const uint8_t *row = (const uint8_t *)job->out + unit * size;
        for (uint64_t at = 0; at < ROW * size; at += LINE) __builtin_prefetch(row + at, 1);
    }
    for (uint64_t at = 0; at < ROW; at += LINE) __builtin_prefetch(words + at, 0);
}

static bool decode_lanes(const Job *job, uint64_t first, unsigned count, uint64_t begin) {
    const Stream *stream = &job->call->stream;
    uint64_t groups = ceil_div(stream->symbol_count, GROUP * stream->lane_count);
    uint8_t padded[8] = {0};
    uint64_t from = begin >> 3, bytes = stream->word_bytes - least(from, stream->word_bytes);
    if (bytes < 8) { /* one load takes eight bytes */
        uint64_t more = least(stream->word_bytes, 8) - bytes;
        from -= more;
        bytes += more;
    }
    Steps steps = {stream->words + from, 0, job->model->table};
    if (stream->word_bytes < 8) {
        memcpy(padded, stream->words, (size_t)stream->word_bytes);
        steps.data = padded;
        bytes = 8;
    }
    steps.last_byte = (uint32_t)least(bytes - 8, UINT32_MAX >> 3);
    Lanes lanes;
    begin_lanes(stream, first, count, (unsigned)(begin - 8 * from), &lanes);
    const Function *function = job->call->function;
    bool is_direct = gives_symbols(job->call) && function->mode == CODED && !function->packed && count == LANES;
    bool is_right = true;
    const uint8_t *next = steps.data + (lanes.end[LANES - 1] >> 3); /* the next tile's bits */
    for (uint64_t group = 0; group < groups; group++) {
        uint8_t own_row[ROW] __attribute__((aligned(64)));
        uint64_t at = GROUP * (group * stream->lane_count + first);
        uint8_t *row = is_direct && at + ROW <= stream->symbol_count ? (uint8_t *)job->out + at : own_row;
        fetch_ahead(job, at + AHEAD * GROUP * stream->lane_count, next + group * ROW);
        Mask leaders = step_rows(&steps, &lanes, count, group < groups - 1 ? 31 : 0, row);
        if (leaders.half[0] | leaders.half[1]) resolve(job, &steps, bytes, &lanes, count, leaders, row);
        if (row == own_row && at < stream->symbol_count) {
            is_right &= write_coded(job, at, row, least(GROUP * count, stream->symbol_count - at));
        }
    }
    for (unsigned lane = 0; lane < count; lane++) is_right &= lanes.position[lane] == lanes.end[lane];
    return is_right;
}

/* Lanes that are too long for 32 bits: bit by bit and in no hurry, one behind the other. */
static bool decode_long_lane(const Job *job, uint64_t lane, uint64_t begin, uint64_t end) {
    const Stream *stream = &job->call->stream;
    uint64_t steps = GROUP * ceil_div(stream->symbol_count, GROUP * stream->lane_count), at = begin;
    uint32_t state = read_field(stream->words, stream->word_bytes, lane * stream->table_log, stream->table_log);
    bool is_right = true;
    for (uint64_t step = 0; step < steps; step++) {
        uint32_t entry = job->model->table[state];
        uint8_t unit = (uint8_t)(entry >> 8);
        unsigned width = job->model->class_width[unit];
        if (width > end - at) return false;
        end -= width;
        if (width) {
            uint32_t literal = read_field(stream->words, stream->word_bytes, end, width);
            unit = stream->classes[job->model->class_members[unit] + literal];
        }
        uint64_t index = GROUP * (stream->lane_count * (step / GROUP) + lane) + step % GROUP;
        if (index < stream->symbol_count) is_right &= write_coded(job, index, &unit, 1);
        if (step == steps - 1) break;
        unsigned count = entry & 31;
        if (count > end - at) return false;
        state = (entry >> 16) + read_field(stream->words, stream->word_bytes, at, count);
        at += count;
    }
    return is_right && at == end;
}

static bool decode_tile(const Job *job, uint64_t tile) {
    const Stream *stream = &job->call->stream;
    uint64_t first = tile * LANES, begin = job->tiles->begin[tile], end = job->tiles->begin[tile + 1];
    unsigned count = (unsigned)least(LANES, stream->lane_count - first);
    uint64_t groups = ceil_div(stream->symbol_count, GROUP * stream->lane_count);
    if (fits(end - begin, groups)) return decode_lanes(job, first, count, begin);
    for (unsigned lane = 0; lane < count; lane++) {
        uint64_t bits = lane_bits(stream, first + lane);
        if (!decode_long_lane(job, first + lane, begin, begin + bits)) return false;
        begin += bits;
    }
    return true;
}

#endif
