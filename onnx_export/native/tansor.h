/*
 * What a call of an `ai.tansor` function holds, checked, and the steps that turn it into a tensor.
 *
 *     call.c      a call's inputs, checked                          docs/spec/onnx.md, "Checks"
 *     model.c     state table and classes                           docs/spec/tans.md, "State tables", "Classes"
 *     tile.h      lanes to symbols to values, 128 lanes side by side; compiled by decode_*.c for each instruction set
 *     values.h    symbols to values
 *     product.h   symbols to values that are multiplied at once
 *     kernel.c    what ONNX Runtime gives a kernel
 *     cpu.c       the kernel for processors
 *     product.c   the kernel of products with symbols, for processors
 *     cuda.c      the kernel for NVIDIA's devices
 *     ops.c       registration
 *
 * Nothing that is stored is trusted. A function that can fail returns what is wrong, or null.
 */
#ifndef TANSOR_H
#define TANSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "ort.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "stored numbers are little-endian; the loads of this library take them as they are"
#endif

enum { LANES = 128, GROUP = 4, ROW = LANES * GROUP }; /* a tile's lanes; a group of their steps gives a row of units */
enum { LINE = 64 }; /* bytes that memory gives and takes at once */
enum { MAX_RANK = 64, MAX_INPUTS = 8, MAX_TABLE = 1 << 12, MAX_CLASS_BYTES = 65535 };

typedef const char *Failure; /* begins with the name of the error that docs/spec/README.md gives it */

/* ---------------------------------------------------------------------------------------------------------------
 * Functions and their inputs
 */

typedef enum { RAW, CONSTANT, CODED, PARTIAL } Mode;
typedef enum {
    STREAM, COUNTS, LAYOUT, CLASSES, RAW_UNITS, CHUNKS, UNITS, SYMBOLS, SYMBOL, SHAPE, SCALE, ZERO_POINT, FACTOR, BIAS,
    ROLES
} Role;

typedef struct {
    const char *name;
    Mode mode;
    bool is_weight, has_classes, packed;
    size_t input_count;
    Role inputs[MAX_INPUTS];
} Function;

typedef struct {
    const void *data;
    int type;
    size_t rank;
    int64_t shape[MAX_RANK];
    uint64_t count, bytes; /* elements and their size in memory */
} Tensor;

/* ---------------------------------------------------------------------------------------------------------------
 * A checked call
 */

/* A small array spread over a large one. Neighbouring axes of one kind are joined; axis 0 is the outermost. */
typedef struct {
    const void *data;
    size_t rank;
    uint64_t size[MAX_RANK], stride[MAX_RANK];
} Broadcast;

typedef struct {
    uint64_t chunk, per_block, coded; /* units of a chunk, chunks of a block, and how many of them are coded */
} Chunks;

typedef struct {
    uint64_t symbol_count, lane_count, length_base;
    unsigned length_width, table_log, count_size, alphabet;
    const uint8_t *counts, *classes, *words;
    uint64_t class_bytes, word_bytes;
} Stream;

typedef struct {
    const Function *function;
    int type; /* of the elements of the result */
    size_t rank;
    int64_t shape[MAX_RANK];
    uint64_t count, unit_count; /* of the tensor */
    Stream stream;
    Chunks chunks;      /* mode partial */
    const uint8_t *raw; /* units that are not coded, or the one symbol */
    uint64_t raw_count;
    Broadcast scale, zero_point;
} Call;

/* A weight of this type is not dequantized: what a product reads (product.h). */
static inline bool gives_symbols(const Call *call) { return call->function->is_weight && call->type == TYPE_UINT8; }

/* Bytes of an element of the result; integers of four bits count as one. */
static inline uint64_t size_of(const Call *call) {
    return call->type == TYPE_FLOAT ? 4 : call->type == TYPE_FLOAT16 || call->type == TYPE_BFLOAT16 ? 2 : 1;
}

/* The call that the inputs are, indexed by role; nothing of the stream but its fields is looked at. */
Failure read_call(const Function *function, const Tensor inputs[ROLES], int64_t type, Call *call);

/* ---------------------------------------------------------------------------------------------------------------
 * What is derived from a stream once
 */

typedef struct {
    /* Of each state: bit count in bits 0 to 4, whether the symbol leads a class in 7, the symbol in 8 to 15, and the
     * base above. Shifts take their count from the lowest bits. */
    uint32_t table[MAX_TABLE];
    uint8_t class_width[256];
    uint16_t class_members[256]; /* where they begin in the stored classes */
    int only_symbol;             /* it has all slots and no class; else -1 */
} Model;

Failure make_model(const Stream *stream, Model *model);

/* Where every tile begins, and the end: `count + 1` bit positions. */
typedef struct {
    uint64_t count;
    uint64_t *begin;
} Tiles;

/* All checks of a stream but that lanes use exactly their bits. Takes memory that `free(tiles->begin)` gives back. */
Failure find_tiles(const Stream *stream, const Model *model, bool may_repeat, Tiles *tiles);

uint32_t crc32_of(uint32_t crc, const void *data, uint64_t size);

/* ---------------------------------------------------------------------------------------------------------------
 * Decoding
 */

typedef struct {
    const Call *call;
    const Model *model;
    const Tiles *tiles;
    void *out;
    bool past_caches; /* the result is so large that caches would only pass it on */
} Job;

/* One number for each element of a matrix: how far apart those of neighbouring rows and columns are, 0 if the same. */
typedef struct {
    const void *data;
    uint64_t row, column;
} Strides;

/* Y = X W + C: X is [rows, depth], Y [rows, columns]; W [depth, columns], or [columns, depth] in memory if it is turned. */
typedef struct {
    const float *x;
    const uint8_t *symbols;    /* of W */
    Strides scale, zero_point; /* of W as it is multiplied: a row for each of the depth */
    const float *bias;         /* C: a number for each column, or null */
    float *y;
    uint64_t rows, depth, columns;
    bool is_turned;
} Product;

/* What is computed together: columns of Y are a line of symbols of W; rows of X stay in the second cache; so many rows
 * of W become floats at a time. */
enum { BLOCK_COLUMNS = 64, BLOCK_ROWS = 192, BLOCK_DEPTH = 256 };

/* One instruction set's code. All report damage that shows only in decoding: false. */
typedef struct {
    const char *name;
    bool (*decode_tile)(const Job *job, uint64_t tile);
    /* Units from an index of the tensor on, or of the stream: it may cut the tensor into chunks. */
    bool (*write_placed)(const Job *job, uint64_t at, const uint8_t *units, uint64_t count);
    bool (*write_coded)(const Job *job, uint64_t at, const uint8_t *units, uint64_t count);
    /* Rows of Y from `first` to `last` - 1, in the block of columns from `column` on. */
    void (*multiply)(const Product *product, uint64_t first, uint64_t last, uint64_t column);
    void (*settle)(void); /* once a thread has done its part: others then see all that it wrote */
} Decoder;

extern const Decoder portable_decoder, avx2_decoder, avx512_decoder;
const Decoder *choose_decoder(void);

/* ---------------------------------------------------------------------------------------------------------------
 * Small things
 */

static inline uint64_t ceil_div(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }
static inline uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t load64(const uint8_t *data) {
    uint64_t value;
    memcpy(&value, data, sizeof value);
    return value;
}

/* The field of `width` bits, at most 31, at bit `position`; bits behind the last byte are 0. */
static inline uint32_t read_field(const uint8_t *data, uint64_t bytes, uint64_t position, unsigned width) {
    uint64_t at = position >> 3, window = 0;
    if (at + 8 <= bytes) window = load64(data + at);
    else if (at < bytes) memcpy(&window, data + at, (size_t)(bytes - at));
    return (uint32_t)(window >> (position & 7) & (((uint64_t)1 << width) - 1));
}

static inline uint64_t lane_bits(const Stream *stream, uint64_t lane) {
    uint64_t at = stream->lane_count * stream->table_log + lane * stream->length_width;
    return stream->length_base + read_field(stream->words, stream->word_bytes, at, stream->length_width);
}

#endif
