/* Tables that are derived from a stream's counts and classes, and where its lanes begin (docs/spec/tans.md). */
#include <stdlib.h>

#include "tansor.h"

static const uint32_t LEADER = 1u << 7;

static unsigned bit_length(uint32_t x) { return x ? 32 - (unsigned)__builtin_clz(x) : 0; }

static uint32_t count_of(const Stream *stream, unsigned symbol) {
    const uint8_t *at = stream->counts + symbol * stream->count_size;
    return stream->count_size == 1 ? at[0] : (uint32_t)(at[0] | at[1] << 8);
}

static Failure read_classes(const Stream *stream, Model *model) {
    const uint8_t *stored = stream->classes;
    uint64_t size = stream->class_bytes;
    memset(model->class_width, 0, sizeof model->class_width);
    memset(model->class_members, 0, sizeof model->class_members);
    if (size == 0) return NULL;
    uint64_t count = stored[0], at = 1 + count;
    if (size > MAX_CLASS_BYTES || count == 0 || size < at) return "Corrupt: number of classes";
    for (uint64_t i = 0; i < count; i++) {
        unsigned width = stored[1 + i];
        if (width < 1 || width > 8) return "Corrupt: a class has literals of no or too many bits";
        if (size - at < (uint64_t)1 << width) return "Corrupt: members of classes are missing";
        uint8_t leader = stored[at];
        if (model->class_width[leader]) return "Corrupt: a symbol leads two classes";
        model->class_width[leader] = (uint8_t)width;
        model->class_members[leader] = (uint16_t)at;
        at += (uint64_t)1 << width;
    }
    return at == size ? NULL : "Corrupt: too many members of classes";
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The slots, listed symbol by symbol, in the order of the states: a key's place in the list keeps the sort stable. */
static void spread(const uint32_t q[256], uint32_t slots[MAX_TABLE], uint8_t symbol_of[MAX_TABLE]) {
    uint32_t places = 0;
    for (unsigned s = 0; s < 256; s++) {
        for (uint32_t j = 0; j < q[s]; j++, places++) {
            uint32_t key = q[s] > 1 ? ((2 * j + 1) << 16) / (2 * q[s]) : 1u << 16;
            symbol_of[places] = (uint8_t)s;
            slots[places] = key << 12 | places;
        }
    }
    qsort(slots, places, sizeof *slots, ascending);
}

static void fill_table(uint32_t q[256], unsigned table_log, Model *model) {
    uint32_t slots[MAX_TABLE];
    uint8_t symbol_of[MAX_TABLE];
    spread(q, slots, symbol_of);
    for (uint32_t state = 0; state < 1u << table_log; state++) {
        uint32_t symbol = symbol_of[slots[state] & (MAX_TABLE - 1)];
        uint32_t x = q[symbol]++;
        uint32_t bit_count = table_log + 1 - bit_length(x);
        uint32_t base = (x << bit_count) - (1u << table_log);
        model->table[state] = bit_count | (model->class_width[symbol] ? LEADER : 0) | symbol << 8 | base << 16;
    }
}

Failure make_model(const Stream *stream, Model *model) {
    uint32_t q[256] = {0}, sum = 0;
    model->only_symbol = -1;
    Failure failure = read_classes(stream, model);
    if (failure) return failure;
    for (unsigned s = 0; s < stream->alphabet; s++) {
        q[s] = count_of(stream, s);
        sum += q[s];
        if (q[s] == 1u << stream->table_log && !model->class_width[s]) model->only_symbol = (int)s;
    }
    if (sum != 1u << stream->table_log) return "Corrupt: table_log is not the logarithm of the sum of the counts";
    fill_table(q, stream->table_log, model);
    return NULL;
}

/* "Stream", "Checks": those of the fields. */
static Failure check_fields(const Stream *stream, const Model *model) {
    uint64_t lanes = stream->lane_count, bits = 8 * stream->word_bytes;
    if (stream->table_log + stream->length_width + stream->length_base > bits / lanes) {
        return "Truncated: fewer words than the lanes need at least";
    }
    if (model->only_symbol < 0 && stream->symbol_count > (bits + lanes) << stream->table_log) {
        return "LimitExceeded: more symbols than such a stream can hold";
    }
    return NULL;
}

/* "Stream", "Checks": those of the lanes, which end at the bit `end`. */
static Failure check_end(const Stream *stream, uint64_t first_bit, uint64_t end, bool only, bool may_repeat) {
    uint64_t bits = 8 * stream->word_bytes;
    if (end > bits) return "Truncated: lanes end behind the last word";
    if (bits - end >= 32) return "Corrupt: more words than the lanes need";
    if (read_field(stream->words, stream->word_bytes, end, (unsigned)(bits - end))) {
        return "Corrupt: bits behind the last lane";
    }
    if (only && end > first_bit) return "Corrupt: the only symbol of a stream takes no bits";
    if (only && !may_repeat) return "Corrupt: a packed stream repeats one byte";
    return NULL;
}

Failure find_tiles(const Stream *stream, const Model *model, bool may_repeat, Tiles *tiles) {
    tiles->begin = NULL;
    Failure failure = check_fields(stream, model);
    if (failure) return failure;
    tiles->count = ceil_div(stream->lane_count, LANES);
    uint64_t *begin = malloc((size_t)(tiles->count + 1) * sizeof *begin);
    if (!begin) return "LimitExceeded: not enough memory for the positions of lanes";
    /* No sum can wrap: lane_count * (length_base + 2**31) is below 2**64 once the least lengths fit the words. */
    uint64_t first_bit = stream->lane_count * (stream->table_log + stream->length_width), at = first_bit;
    for (uint64_t lane = 0; lane < stream->lane_count; lane++) {
        if (lane % LANES == 0) begin[lane / LANES] = at;
        at += lane_bits(stream, lane);
    }
    begin[tiles->count] = at;
    failure = check_end(stream, first_bit, at, model->only_symbol >= 0, may_repeat);
    if (failure) {
        free(begin);
        return failure;
    }
    tiles->begin = begin;
    return NULL;
}
