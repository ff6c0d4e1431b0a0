/*
 * A decoder of tansor frames in plain C11, written from docs/spec/tans.md and docs/spec/frame.md alone.
 *
 *     cc -O2 -std=c11 -o tansor_decode tansor_decode.c
 *     tansor conformance --command ./tansor_decode
 *
 * It is meant to be read next to the pages: comments name the section that a function follows, and functions
 * are named as the pages name things. One lane is decoded behind the other, a symbol at a time.
 *
 * No field is trusted. Sizes are 64 bits wide and compared with what is there before anything is read or
 * allocated; where a product could pass 64 bits the comparison is a division. One symbol that is repeated is
 * given as symbol and count, so that it costs no memory.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Claims of more symbols are refused with LimitExceeded; README.md, "Errors", and tans.md, "Checks", allow it. */
#ifndef SYMBOL_LIMIT
#define SYMBOL_LIMIT ((uint64_t)1 << 31)
#endif
_Static_assert(SYMBOL_LIMIT <= SIZE_MAX, "a block of memory may have SYMBOL_LIMIT bytes");

/* README.md, "Errors". A function that can fail returns one of these, or NULL. */
typedef const char *failure;
static const char TRUNCATED[] = "Truncated";
static const char CORRUPT[] = "Corrupt";
static const char UNSUPPORTED_VERSION[] = "UnsupportedVersion";
static const char LIMIT_EXCEEDED[] = "LimitExceeded";
static const char INVALID_ARGUMENT[] = "InvalidArgument";

enum { MOST_COUNTS = 256, LEAST_TABLE_LOG = 5, MOST_TABLE_LOG = 12, MOST_STATES = 1 << MOST_TABLE_LOG };

/* Bytes of somebody else's: never written, never freed. */
typedef struct {
    const uint8_t *data;
    uint64_t size;
} bytes;

/* ------------------------------------------------------------------------------------------------------------
 * Numbers and memory
 */

static uint64_t ceil_div(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }

static unsigned bit_length(uint64_t x) {
    unsigned length = 0;
    for (; x > 0; x >>= 1) length++;
    return length;
}

/* A little-endian number of 1 to 8 bytes (README.md, "Notation"). */
static uint64_t little_endian(const uint8_t *data, unsigned size) {
    uint64_t value = 0;
    for (unsigned i = size; i > 0; i--) value = value << 8 | data[i - 1];
    return value;
}

/* Memory for so many symbols; malloc of nothing may be NULL, which would look like a failure. */
static failure allocate(uint64_t count, uint8_t **memory) {
    if (count > SYMBOL_LIMIT) return LIMIT_EXCEEDED;
    *memory = malloc(count > 0 ? (size_t)count : 1);
    return *memory ? NULL : LIMIT_EXCEEDED;
}

/* ------------------------------------------------------------------------------------------------------------
 * tans.md, "Bits"
 */

/* The field of w bits, 0 to 31, at bit p. Bits behind the words read as 0. */
static uint32_t read_field(bytes words, uint64_t p, unsigned w) {
    unsigned skipped = p % 8;
    uint64_t gathered = 0; /* 7 + 31 bits at most */
    uint64_t at = p / 8;
    for (unsigned shift = 0; shift < skipped + w && at < words.size; shift += 8) {
        gathered |= (uint64_t)words.data[at++] << shift;
    }
    return (uint32_t)(gathered >> skipped & (((uint64_t)1 << w) - 1));
}

/* ------------------------------------------------------------------------------------------------------------
 * tans.md, "Normalized counts", "Symbol spread", "State tables"
 */

typedef struct {
    unsigned size; /* 1 to 256 */
    uint32_t q[MOST_COUNTS];
} normalized_counts;

/* table_log, or 0 if the counts do not sum to 32, 64, ..., or 4096. 256 counts of 32 bits cannot wrap. */
static unsigned table_log_of(const normalized_counts *counts) {
    uint64_t sum = 0;
    for (unsigned s = 0; s < counts->size; s++) sum += counts->q[s];
    for (unsigned table_log = LEAST_TABLE_LOG; table_log <= MOST_TABLE_LOG; table_log++) {
        if (sum == (uint64_t)1 << table_log) return table_log;
    }
    return 0;
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/*
 * "Symbol spread": the symbol of each of the L states. The counts must sum to L.
 *
 * A slot's key, at most 1 << 16, and its place in the list, below 4096, make one number. These numbers are all
 * different and sort as a stable sort sorts the keys.
 */
static void spread(const normalized_counts *counts, uint8_t symbol[MOST_STATES]) {
    uint8_t listed[MOST_STATES];
    uint32_t slots[MOST_STATES];
    uint32_t places = 0;
    for (unsigned s = 0; s < counts->size; s++) {
        uint32_t q = counts->q[s];
        for (uint32_t j = 0; j < q; j++) {
            uint32_t key = q > 1 ? ((2 * j + 1) << 16) / (2 * q) : 1u << 16; /* 8191 << 16 fits */
            listed[places] = (uint8_t)s;
            slots[places] = key << MOST_TABLE_LOG | places;
            places++;
        }
    }
    qsort(slots, places, sizeof *slots, ascending);
    for (uint32_t z = 0; z < places; z++) symbol[z] = listed[slots[z] & (MOST_STATES - 1)];
}

typedef struct {
    unsigned table_log;
    uint8_t symbol[MOST_STATES];
    uint8_t bit_count[MOST_STATES];
    uint16_t base[MOST_STATES];
} decode_table;

/* "Decode table". The counts must sum to 2**table_log. */
static void make_decode_table(const normalized_counts *counts, unsigned table_log, decode_table *table) {
    uint32_t L = 1u << table_log;
    uint32_t x_of_next[MOST_COUNTS]; /* q, q + 1, ..., 2 q - 1 */
    memcpy(x_of_next, counts->q, sizeof x_of_next);
    table->table_log = table_log;
    spread(counts, table->symbol);
    for (uint32_t z = 0; z < L; z++) {
        uint32_t x = x_of_next[table->symbol[z]]++;
        unsigned bit_count = table_log + 1 - bit_length(x);
        table->bit_count[z] = (uint8_t)bit_count;
        table->base[z] = (uint16_t)((x << bit_count) - L);
    }
}

/* ------------------------------------------------------------------------------------------------------------
 * tans.md, "Classes"
 */

typedef struct {
    uint8_t width[256];          /* of the class that a symbol leads, else 0 */
    const uint8_t *members[256]; /* 2**width symbols if width is not 0 */
} class_table;

/* More than 65535 bytes are refused too, but class_bytes, a u16, cannot announce them. */
static failure make_class_table(bytes stored, class_table *table) {
    memset(table, 0, sizeof *table);
    if (stored.size == 0) return NULL;
    uint64_t count = stored.data[0];
    if (count == 0 || stored.size - 1 < count) return CORRUPT;
    uint64_t at = 1 + count; /* of the members of the next class */
    for (uint64_t i = 0; i < count; i++) {
        unsigned width = stored.data[1 + i];
        if (width < 1 || width > 8) return CORRUPT;
        if (stored.size - at < (uint64_t)1 << width) return CORRUPT;
        uint8_t leader = stored.data[at];
        if (table->width[leader] > 0) return CORRUPT;
        table->width[leader] = (uint8_t)width;
        table->members[leader] = stored.data + at;
        at += (uint64_t)1 << width;
    }
    return at == stored.size ? NULL : CORRUPT;
}

/* ------------------------------------------------------------------------------------------------------------
 * tans.md, "Stream"
 */

typedef struct {
    uint64_t symbol_count;
    uint64_t lane_count;  /* of 32 bits, as is */
    uint64_t length_base; /* of 32 bits */
    unsigned length_width;
    normalized_counts counts;
    bytes classes;
    bytes words; /* 4 bytes each */
} stream;

/* Symbols as an array that the receiver frees; or, with data NULL, one symbol count times. */
typedef struct {
    uint8_t *data;
    uint64_t count;
    uint8_t symbol;
} symbols;

/* The number that lane k's length is stored as, behind all start states. */
static uint64_t length_of(const stream *st, unsigned table_log, uint64_t k) {
    uint64_t at = st->lane_count * table_log + k * st->length_width;
    return st->length_base + read_field(st->words, at, st->length_width);
}

/* "Stream": a symbol that has all slots and leads no class, or -1. */
static int only_symbol(const stream *st, const decode_table *table, const class_table *classes) {
    for (unsigned s = 0; s < st->counts.size; s++) {
        if (st->counts.q[s] == 1u << table->table_log) return classes->width[s] == 0 ? (int)s : -1;
    }
    return -1;
}

/* "Stream", "Checks", all but the last one, in the order of the table. Counts and classes are checked already. */
static failure check_stream(const stream *st, unsigned table_log, bool has_only_symbol, bool allows_only_symbol) {
    uint64_t K = st->lane_count, bits = 8 * st->words.size;
    if (K < 1 || K > st->symbol_count) return CORRUPT;
    if (st->length_width > 31) return CORRUPT;
    if (table_log + st->length_width + st->length_base > bits / K) return TRUNCATED; /* the product may wrap */
    if (!has_only_symbol && st->symbol_count > (bits + K) << table_log) return LIMIT_EXCEEDED;
    uint64_t lengths = 0; /* K * (2**32 + 2**31) cannot wrap, as K * length_base is below 2**37 by now */
    for (uint64_t k = 0; k < K; k++) lengths += length_of(st, table_log, k);
    uint64_t end = K * (table_log + st->length_width) + lengths;
    if (end > bits) return TRUNCATED;
    if (bits - end >= 32) return CORRUPT;
    if (read_field(st->words, end, (unsigned)(bits - end)) != 0) return CORRUPT;
    if (has_only_symbol && lengths > 0) return CORRUPT;
    if (has_only_symbol && !allows_only_symbol) return CORRUPT;
    return NULL;
}

/*
 * "Decoding": lane k, with the start state z and the bits p to e - 1. p only grows and e only falls, and they
 * must not pass each other, so no field lies outside the lane. "Lanes" says which symbol a step gives.
 */
static failure decode_lane(const stream *st, const decode_table *table, const class_table *classes, uint64_t k,
                           uint32_t z, uint64_t p, uint64_t e, uint8_t *decoded) {
    uint64_t N = st->symbol_count, K = st->lane_count;
    uint64_t T = 4 * ceil_div(N, 4 * K);
    for (uint64_t t = 0; t < T; t++) {
        uint8_t s = table->symbol[z];
        unsigned w = classes->width[s];
        if (w > 0) {
            if (e - p < w) return CORRUPT;
            e -= w;
            s = classes->members[s][read_field(st->words, e, w)];
        }
        uint64_t i = 4 * K * (t / 4) + 4 * k + t % 4;
        if (i < N) decoded[i] = s; /* else padding */
        if (t == T - 1) break;
        w = table->bit_count[z];
        if (e - p < w) return CORRUPT;
        z = table->base[z] + read_field(st->words, p, w);
        p += w;
    }
    return p == e ? NULL : CORRUPT;
}

static failure decode_lanes(const stream *st, const decode_table *table, const class_table *classes,
                            uint8_t *decoded) {
    uint64_t p = st->lane_count * (table->table_log + st->length_width);
    for (uint64_t k = 0; k < st->lane_count; k++) {
        uint32_t start_state = read_field(st->words, k * table->table_log, table->table_log);
        uint64_t e = p + length_of(st, table->table_log, k);
        failure failed = decode_lane(st, table, classes, k, start_state, p, e, decoded);
        if (failed) return failed;
        p = e;
    }
    return NULL;
}

/* "Stream", with the checks in the order of their table. */
static failure decode_stream(const stream *st, bool allows_only_symbol, symbols *decoded) {
    class_table classes;
    failure failed = make_class_table(st->classes, &classes);
    if (failed) return failed;
    unsigned table_log = table_log_of(&st->counts);
    if (table_log == 0) return CORRUPT;
    decode_table table;
    make_decode_table(&st->counts, table_log, &table);
    int only = only_symbol(st, &table, &classes);
    failed = check_stream(st, table_log, only >= 0, allows_only_symbol);
    if (failed) return failed;
    if (only >= 0) {
        *decoded = (symbols){NULL, st->symbol_count, (uint8_t)only};
        return NULL;
    }
    uint8_t *data;
    failed = allocate(st->symbol_count, &data);
    if (failed) return failed;
    failed = decode_lanes(st, &table, &classes, data);
    if (failed) return free(data), failed;
    *decoded = (symbols){data, st->symbol_count, 0};
    return NULL;
}

/* ------------------------------------------------------------------------------------------------------------
 * tans.md, "Blocks"
 */

enum { RAW, CONSTANT, CODED, PARTIAL };

typedef struct {
    uint64_t chunk, per_block, coded; /* per_block and coded are c and m of the page */
} chunks;

typedef struct {
    unsigned mode;
    bool packed;
    uint64_t symbol_count; /* of the whole tensor */
    bytes raw;             /* units; in mode constant the symbol */
    stream stream;         /* coded, partial */
    chunks chunks;         /* partial */
} block;

static uint64_t unit_count(const block *b) {
    return b->packed ? ceil_div(b->symbol_count, 2) : b->symbol_count;
}

/* chunk >= 1, 1 <= m < c, and one whole block at least; U < chunk * c without the product. */
static bool are_chunks_valid(chunks cut, uint64_t U) {
    return cut.chunk >= 1 && cut.coded >= 1 && cut.coded < cut.per_block && U / cut.per_block >= cut.chunk;
}

/* How many units of valid chunks are raw: no more than U. */
static uint64_t raw_unit_count(chunks cut, uint64_t U) {
    return U / (cut.chunk * cut.per_block) * cut.chunk * (cut.per_block - cut.coded);
}

/* "Partial coding", backwards: U units of their raw chunks and their coded chunks, tail included. */
static void merge_chunks(const uint8_t *raw, const uint8_t *coded, chunks cut, uint64_t U, uint8_t *units) {
    uint64_t raw_part = cut.chunk * (cut.per_block - cut.coded), coded_part = cut.chunk * cut.coded;
    uint64_t at = 0;
    while (U - at >= raw_part + coded_part) {
        memcpy(units + at, raw, (size_t)raw_part);
        memcpy(units + at + raw_part, coded, (size_t)coded_part);
        raw += raw_part;
        coded += coded_part;
        at += raw_part + coded_part;
    }
    memcpy(units + at, coded, (size_t)(U - at));
}

/* Modes raw, coded and partial: the U units. The number of raw bytes is checked already. */
static failure decode_units(const block *b, symbols *units) {
    uint64_t U = unit_count(b);
    if (b->mode == CODED) return decode_stream(&b->stream, !b->packed, units);
    uint8_t *data;
    if (b->mode == RAW) {
        failure failed = allocate(U, &data);
        if (failed) return failed;
        memcpy(data, b->raw.data, (size_t)U);
        *units = (symbols){data, U, 0};
        return NULL;
    }
    symbols coded;
    failure failed = decode_stream(&b->stream, true, &coded);
    if (failed) return failed;
    if (!coded.data) { /* an only symbol; the raw units, of which at least one is there in each block, bound it */
        failed = allocate(coded.count, &coded.data);
        if (failed) return failed;
        memset(coded.data, coded.symbol, (size_t)coded.count);
    }
    failed = allocate(U, &data);
    if (failed) return free(coded.data), failed;
    merge_chunks(b->raw.data, coded.data, b->chunks, U, data);
    free(coded.data);
    *units = (symbols){data, U, 0};
    return NULL;
}

/* "Packed symbols", backwards: the first N halves. Packed units are an array, as no only symbol is allowed. */
static failure unpack(const symbols *units, uint64_t N, symbols *decoded) {
    uint8_t *data;
    failure failed = allocate(N, &data);
    if (failed) return failed;
    for (uint64_t i = 0; i < N; i++) data[i] = i % 2 == 0 ? units->data[i / 2] & 15 : units->data[i / 2] >> 4;
    *decoded = (symbols){data, N, 0};
    return NULL;
}

static failure decode_block(const block *b, symbols *decoded) {
    if (b->mode == CONSTANT) {
        *decoded = (symbols){NULL, b->symbol_count, b->raw.data[0]};
        return NULL;
    }
    if (!b->packed) return decode_units(b, decoded);
    symbols units;
    failure failed = decode_units(b, &units);
    if (failed) return failed;
    failed = unpack(&units, b->symbol_count, decoded);
    free(units.data);
    return failed;
}

/* ------------------------------------------------------------------------------------------------------------
 * frame.md
 */

/* "Checksums": goes on with the CRC-32 of the bytes before; that of no bytes is 0. Half a byte at a time. */
static uint32_t crc32(uint32_t crc, const uint8_t *data, uint64_t size) {
    static const uint32_t of_half[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
                                         0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
                                         0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    crc = ~crc;
    for (uint64_t i = 0; i < size; i++) {
        crc ^= data[i];
        crc = crc >> 4 ^ of_half[crc & 15];
        crc = crc >> 4 ^ of_half[crc & 15];
    }
    return ~crc;
}

typedef struct {
    block block;
    uint32_t symbols_crc;
} frame;

/* Takes the next bytes, if there are so many. */
static bool take(bytes *left, uint64_t size, bytes *taken) {
    if (left->size < size) return false;
    *taken = (bytes){left->data, size};
    *left = (bytes){left->data + size, left->size - size};
    return true;
}

/* "Header", the part of all modes. */
static failure read_header(bytes *left, frame *f, uint32_t *frame_crc) {
    bytes header;
    if (!take(left, 24, &header)) return TRUNCATED;
    const uint8_t *at = header.data;
    if (memcmp(at, "tANS", 4) != 0) return CORRUPT;
    if (at[4] != 1) return UNSUPPORTED_VERSION;
    unsigned mode = at[5], flags = at[6], reserved = at[7];
    if (mode > PARTIAL || flags > 1 || reserved != 0 || (mode == CONSTANT && flags == 1)) return CORRUPT;
    f->block.mode = mode;
    f->block.packed = flags == 1;
    f->block.symbol_count = little_endian(at + 8, 8);
    f->symbols_crc = (uint32_t)little_endian(at + 16, 4);
    *frame_crc = (uint32_t)little_endian(at + 20, 4);
    return NULL;
}

/* The stream header and the chunk header. word_count and the others are claims until the body is read. */
typedef struct {
    uint64_t word_count, alphabet, class_bytes, count_size;
} stream_sizes;

static failure read_stream_header(bytes *left, block *b, stream_sizes *sizes) {
    bytes header;
    if (!take(left, 20, &header)) return TRUNCATED;
    const uint8_t *at = header.data;
    b->stream.lane_count = little_endian(at, 4);
    b->stream.length_base = little_endian(at + 4, 4);
    sizes->word_count = little_endian(at + 8, 4);
    sizes->alphabet = little_endian(at + 12, 2);
    sizes->class_bytes = little_endian(at + 14, 2);
    b->stream.length_width = at[16];
    sizes->count_size = at[17];
    uint64_t reserved = little_endian(at + 18, 2);
    if (sizes->count_size < 1 || sizes->count_size > 2) return CORRUPT;
    if (sizes->alphabet < 1 || sizes->alphabet > MOST_COUNTS || reserved != 0) return CORRUPT;
    return NULL;
}

static failure read_chunk_header(bytes *left, block *b) {
    bytes header;
    if (!take(left, 8, &header)) return TRUNCATED;
    const uint8_t *at = header.data;
    b->chunks = (chunks){little_endian(at, 4), at[4], at[5]};
    uint64_t reserved = little_endian(at + 6, 2);
    return reserved == 0 && are_chunks_valid(b->chunks, unit_count(b)) ? NULL : CORRUPT;
}

/* "Body": counts, classes and padding. Both headers' sizes are multiples of four, so the body's own size counts. */
static failure read_model(bytes *left, block *b, const stream_sizes *sizes) {
    uint64_t count_bytes = sizes->alphabet * sizes->count_size;
    bytes counts, padding;
    if (!take(left, count_bytes, &counts) || !take(left, sizes->class_bytes, &b->stream.classes)) return TRUNCATED;
    if (!take(left, (4 - (count_bytes + sizes->class_bytes) % 4) % 4, &padding)) return TRUNCATED;
    for (uint64_t i = 0; i < padding.size; i++) {
        if (padding.data[i] != 0) return CORRUPT;
    }
    b->stream.counts.size = (unsigned)sizes->alphabet;
    for (uint64_t s = 0; s < sizes->alphabet; s++) {
        unsigned size = (unsigned)sizes->count_size;
        b->stream.counts.q[s] = (uint32_t)little_endian(counts.data + s * size, size);
    }
    return NULL;
}

/* "Checks", down to frame_crc, in the order of the table. The frame points into the bytes. */
static failure read_frame(bytes given, frame *f) {
    memset(f, 0, sizeof *f);
    bytes left = given;
    block *b = &f->block;
    uint32_t frame_crc;
    failure failed = read_header(&left, f, &frame_crc);
    if (failed) return failed;
    uint64_t U = unit_count(b), raw_units = b->mode == CONSTANT ? 1 : U;
    if (b->mode == CODED || b->mode == PARTIAL) {
        stream_sizes sizes;
        if ((failed = read_stream_header(&left, b, &sizes))) return failed;
        if (b->mode == PARTIAL && (failed = read_chunk_header(&left, b))) return failed;
        if ((failed = read_model(&left, b, &sizes))) return failed;
        if (!take(&left, 4 * sizes.word_count, &b->stream.words)) return TRUNCATED;
        raw_units = b->mode == PARTIAL ? raw_unit_count(b->chunks, U) : 0;
        b->stream.symbol_count = U - raw_units;
    }
    if (!take(&left, raw_units, &b->raw)) return TRUNCATED;
    if (left.size > 0) return CORRUPT;
    uint32_t crc = crc32(0, given.data, 20);
    return crc32(crc, given.data + 24, given.size - 24) == frame_crc ? NULL : CORRUPT;
}

/*
 * A whole frame. The sums of the counts and the classes are checked with the stream: as nothing comes between
 * them and the stream's own checks, and all are Corrupt, the order is that of frame.md, "Checks".
 *
 * symbols_crc of a repeated symbol is left unchecked, as "Checksums" allows; that of no symbols is 0.
 */
static failure decode_frame(bytes given, symbols *decoded) {
    frame f;
    failure failed = read_frame(given, &f);
    if (failed) return failed;
    failed = decode_block(&f.block, decoded);
    if (failed) return failed;
    if (decoded->count == 0 && f.symbols_crc != 0) {
        free(decoded->data);
        return CORRUPT;
    }
    if (decoded->data && crc32(0, decoded->data, decoded->count) != f.symbols_crc) {
        free(decoded->data);
        return CORRUPT;
    }
    if (decoded->count > SYMBOL_LIMIT) return LIMIT_EXCEEDED; /* a repeated symbol: all others are allocated */
    return NULL;
}

/* ------------------------------------------------------------------------------------------------------------
 * Two steps of a writer, for their vectors
 */

/* tans.md, "Cost": log2(x) in units of 2**-16. */
static failure log2_fixed(int64_t x, int64_t *logarithm) {
    if (x < 1) return INVALID_ARGUMENT;
    unsigned whole = bit_length((uint64_t)x) - 1;
    /* x << (31 - whole); an x of more than 32 bits loses its low ones */
    uint64_t m = whole <= 31 ? (uint64_t)x << (31 - whole) : (uint64_t)x >> (whole - 31);
    uint64_t f = 0;
    for (int i = 0; i < 16; i++) {
        m = m * m >> 31;
        uint64_t b = m >> 32;
        m >>= b;
        f = 2 * f + b;
    }
    *logarithm = (int64_t)(((uint64_t)whole << 16) + f);
    return NULL;
}

/* tans.md, "Choosing counts", of a histogram of counts->size symbols. */
static failure normalize_counts(const int64_t *h, int64_t table_log, normalized_counts *counts) {
    if (table_log < LEAST_TABLE_LOG || table_log > MOST_TABLE_LOG) return INVALID_ARGUMENT;
    uint32_t L = 1u << table_log, given = 0;
    for (unsigned s = 0; s < counts->size; s++) {
        if (h[s] < 0 || h[s] >= (int64_t)1 << 39) return INVALID_ARGUMENT;
        counts->q[s] = h[s] > 0;
        given += h[s] > 0;
    }
    if (given == 0 || given > L) return INVALID_ARGUMENT;
    for (; given < L; given++) {
        unsigned a = 0; /* the lowest symbol with the largest quotient */
        for (unsigned b = 1; b < counts->size; b++) {
            if (h[b] * (2 * counts->q[a] + 1) > h[a] * (2 * counts->q[b] + 1)) a = b;
        }
        counts->q[a]++;
    }
    return NULL;
}

/* ------------------------------------------------------------------------------------------------------------
 * docs/conformance.md, "From another language": PROGRAM STEP CASE_DIR OUT_DIR
 */

static void give_up(const char *what, const char *name) {
    fprintf(stderr, "%s: %s\n", name, what);
    exit(1);
}

static FILE *open_file(const char *folder, const char *name, const char *mode) {
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (length < 0 || (size_t)length >= sizeof path) give_up("the path is too long", name);
    FILE *file = fopen(path, mode);
    if (!file) give_up("cannot be opened", path);
    return file;
}

/* All bytes of a file, and a NUL behind them; for the receiver to free. */
static uint8_t *read_file(const char *folder, const char *name, uint64_t *size) {
    FILE *file = open_file(folder, name, "rb");
    size_t room = 4096, filled = 0;
    uint8_t *data = malloc(room);
    while (data) {
        filled += fread(data + filled, 1, room - 1 - filled, file);
        if (filled < room - 1) break;
        room *= 2;
        uint8_t *larger = realloc(data, room);
        if (!larger) free(data);
        data = larger;
    }
    if (!data || ferror(file)) give_up("cannot be read", name);
    fclose(file);
    data[filled] = 0;
    *size = filled;
    return data;
}

static void write_file(const char *folder, const char *name, const void *data, size_t size) {
    FILE *file = open_file(folder, name, "wb");
    if (fwrite(data, 1, size, file) != size || fclose(file) != 0) give_up("cannot be written", name);
}

static void write_repeated(const char *folder, const char *name, uint8_t symbol, uint64_t count) {
    uint8_t part[4096];
    memset(part, symbol, sizeof part);
    FILE *file = open_file(folder, name, "wb");
    while (count > 0) {
        size_t size = count < sizeof part ? (size_t)count : sizeof part;
        if (fwrite(part, 1, size, file) != size) give_up("cannot be written", name);
        count -= size;
    }
    if (fclose(file) != 0) give_up("cannot be written", name);
}

/* Numbers as size bytes each, little-endian. */
static void write_numbers(const char *folder, const char *name, const uint64_t *numbers, size_t count, unsigned size) {
    FILE *file = open_file(folder, name, "wb");
    for (size_t i = 0; i < count; i++) {
        for (unsigned j = 0; j < size; j++) {
            if (fputc((int)(numbers[i] >> 8 * j & 255), file) == EOF) give_up("cannot be written", name);
        }
    }
    if (fclose(file) != 0) give_up("cannot be written", name);
}

/* An input of int64; for the receiver to free. */
static int64_t *read_int64s(const char *folder, const char *name, uint64_t *count) {
    uint64_t size;
    uint8_t *data = read_file(folder, name, &size);
    int64_t *numbers = malloc(size + 1);
    if (!numbers) give_up("no memory", name);
    *count = size / 8;
    for (uint64_t i = 0; i < *count; i++) {
        uint64_t number = little_endian(data + 8 * i, 8);
        memcpy(&numbers[i], &number, sizeof number);
    }
    free(data);
    return numbers;
}

/* A parameter that is a number. Its name occurs but once in case.json, so that no parser is needed. */
static int64_t read_parameter(const char *folder, const char *name) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\"", name);
    uint64_t size;
    uint8_t *text = read_file(folder, "case.json", &size);
    const char *found = strstr((char *)text, quoted);
    const char *colon = found ? strchr(found + strlen(quoted), ':') : NULL;
    if (!colon) give_up("no such parameter", name);
    char *end;
    int64_t value = strtoll(colon + 1, &end, 10);
    if (end == colon + 1) give_up("the parameter is no number", name);
    free(text);
    return value;
}

static int refuse(const char *folder, failure failed) {
    write_file(folder, "error", failed, strlen(failed));
    return 3;
}

static int step_decode(const char *given, const char *taken) {
    bytes stored;
    uint8_t *data = read_file(given, "frame.bin", &stored.size);
    stored.data = data;
    symbols decoded;
    failure failed = decode_frame(stored, &decoded);
    free(data);
    if (failed) return refuse(taken, failed);
    if (!decoded.data) return write_repeated(taken, "symbols.bin", decoded.symbol, decoded.count), 0;
    write_file(taken, "symbols.bin", decoded.data, (size_t)decoded.count);
    free(decoded.data);
    return 0;
}

/* The counts of the steps spread and decode_table are a caller's: what a stream's may not be is InvalidArgument. */
static failure read_counts(const char *given, normalized_counts *counts, unsigned *table_log) {
    uint64_t count;
    int64_t *numbers = read_int64s(given, "counts.bin", &count);
    bool valid = count >= 1 && count <= MOST_COUNTS;
    counts->size = valid ? (unsigned)count : 0;
    for (unsigned s = 0; s < counts->size; s++) {
        valid = valid && numbers[s] >= 0 && numbers[s] <= MOST_STATES;
        counts->q[s] = valid ? (uint32_t)numbers[s] : 0;
    }
    free(numbers);
    *table_log = valid ? table_log_of(counts) : 0;
    return *table_log > 0 ? NULL : INVALID_ARGUMENT;
}

static int step_spread(const char *given, const char *taken) {
    normalized_counts counts = {0};
    unsigned table_log;
    failure failed = read_counts(given, &counts, &table_log);
    if (failed) return refuse(taken, failed);
    uint8_t symbol[MOST_STATES];
    spread(&counts, symbol);
    write_file(taken, "symbol.bin", symbol, (size_t)1 << table_log);
    return 0;
}

static int step_decode_table(const char *given, const char *taken) {
    normalized_counts counts = {0};
    unsigned table_log;
    failure failed = read_counts(given, &counts, &table_log);
    if (failed) return refuse(taken, failed);
    decode_table table;
    make_decode_table(&counts, table_log, &table);
    size_t L = (size_t)1 << table_log;
    uint64_t base[MOST_STATES];
    for (size_t z = 0; z < L; z++) base[z] = table.base[z];
    write_file(taken, "symbol.bin", table.symbol, L);
    write_file(taken, "bit_count.bin", table.bit_count, L);
    write_numbers(taken, "base.bin", base, L, 2);
    return 0;
}

static int step_merge_chunks(const char *given, const char *taken) {
    int64_t chunk = read_parameter(given, "chunk");
    int64_t per_block = read_parameter(given, "chunks_per_block");
    int64_t coded_chunks = read_parameter(given, "coded_chunks");
    if (chunk < 1 || per_block < 2 || coded_chunks < 1) return refuse(taken, INVALID_ARGUMENT);
    chunks cut = {(uint64_t)chunk, (uint64_t)per_block, (uint64_t)coded_chunks};
    uint64_t raw_size, coded_size;
    uint8_t *raw = read_file(given, "raw.bin", &raw_size);
    uint8_t *coded = read_file(given, "coded.bin", &coded_size);
    uint64_t U = raw_size + coded_size;
    failure failed = NULL;
    if (!are_chunks_valid(cut, U) || raw_unit_count(cut, U) != raw_size) failed = INVALID_ARGUMENT;
    uint8_t *units = NULL;
    if (!failed) failed = allocate(U, &units);
    if (!failed) {
        merge_chunks(raw, coded, cut, U, units);
        write_file(taken, "symbols.bin", units, (size_t)U);
    }
    free(units);
    free(coded);
    free(raw);
    return failed ? refuse(taken, failed) : 0;
}

static int step_log2_fixed(const char *given, const char *taken) {
    uint64_t count;
    int64_t *x = read_int64s(given, "x.bin", &count);
    uint64_t *logarithms = malloc((size_t)count * sizeof *logarithms + 1);
    if (!logarithms) give_up("no memory", "x");
    failure failed = NULL;
    for (uint64_t i = 0; i < count && !failed; i++) {
        int64_t logarithm = 0;
        failed = log2_fixed(x[i], &logarithm);
        logarithms[i] = (uint64_t)logarithm;
    }
    if (!failed) write_numbers(taken, "logarithm.bin", logarithms, (size_t)count, 8);
    free(logarithms);
    free(x);
    return failed ? refuse(taken, failed) : 0;
}

static int step_normalize_counts(const char *given, const char *taken) {
    int64_t table_log = read_parameter(given, "table_log");
    uint64_t count;
    int64_t *histogram = read_int64s(given, "histogram.bin", &count);
    normalized_counts counts = {0};
    failure failed = count <= MOST_COUNTS ? NULL : INVALID_ARGUMENT;
    if (!failed) {
        counts.size = (unsigned)count;
        failed = normalize_counts(histogram, table_log, &counts);
    }
    free(histogram);
    if (failed) return refuse(taken, failed);
    uint64_t numbers[MOST_COUNTS];
    for (unsigned s = 0; s < counts.size; s++) numbers[s] = counts.q[s];
    write_numbers(taken, "counts.bin", numbers, counts.size, 8);
    return 0;
}

int main(int count, char **words) {
    static const struct {
        const char *name;
        int (*take)(const char *given, const char *taken);
    } steps[] = {
        {"decode", step_decode},
        {"spread", step_spread},
        {"decode_table", step_decode_table},
        {"merge_chunks", step_merge_chunks},
        {"log2_fixed", step_log2_fixed},
        {"normalize_counts", step_normalize_counts},
    };
    if (count < 4) give_up("give me STEP CASE_DIR OUT_DIR", "tansor_decode");
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        if (strcmp(words[count - 3], steps[i].name) == 0) return steps[i].take(words[count - 2], words[count - 1]);
    }
    return 64; /* a step that is not there */
}
