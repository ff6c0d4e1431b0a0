/*
 * X W + C with W given as symbols: a block of W becomes floats in the cache just before it is multiplied.
 *
 * Included by decode_NAME.c, which says how wide a vector is there (WIDTH floats), how many rows of X are multiplied at
 * once (ROWS_AT_ONCE), and how vectors are multiplied and added (MULTIPLY_ADD): two vectors for each of the rows, and the
 * two of W, shall fit the registers.
 */
#ifndef TANSOR_PRODUCT_H
#define TANSOR_PRODUCT_H

#include "tansor.h"
#include "values.h"

enum { PANEL = 2 * WIDTH, PANELS = BLOCK_COLUMNS / PANEL };
enum { FEW_ROWS = 16, FEW_DEPTH = 64 }; /* for few rows of X a whole block stays in the first cache */

typedef float Vector __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

/* Floats of a part of W: panels side by side, each row by row. A panel stays in the first cache while rows of X pass. */
typedef struct {
    float values[PANELS][BLOCK_DEPTH * PANEL];
} __attribute__((aligned(64))) Block;

/* What turns the symbols of a row into floats. */
typedef struct {
    float scale[BLOCK_COLUMNS], zero[BLOCK_COLUMNS];
} __attribute__((aligned(64))) Numbers;

/* ---------------------------------------------------------------------------------------------------------------
 * Symbols to floats: the same numbers as in values.h
 */

/* Those of row k and `count` columns from n + j on, of which the last ones may not be there. */
__attribute__((always_inline)) static inline void read_numbers(const Product *p, uint64_t k, uint64_t n, uint32_t j,
                                                               uint32_t count, Numbers *numbers) {
    const Strides *scale = &p->scale, *zero = &p->zero_point;
    const unaligned_float *scales = (const unaligned_float *)scale->data + k * scale->row;
    const uint8_t *zeros = (const uint8_t *)zero->data + k * zero->row;
    float one_scale = scales[0], one_zero = zeros[0];
    for (uint32_t i = j; i < j + count; i++) numbers->scale[i] = one_scale;
    for (uint32_t i = j; i < j + count; i++) numbers->zero[i] = one_zero;
    uint32_t there = (uint32_t)least(j + count, p->columns - n);
    for (uint32_t i = j; scale->column && i < there; i++) numbers->scale[i] = scales[(n + i) * scale->column];
    for (uint32_t i = j; zero->column && i < there; i++) numbers->zero[i] = zeros[(n + i) * zero->column];
}

/* A vector of a row. */
__attribute__((always_inline)) static inline void dequantize(Integers symbols, const Numbers *numbers, uint32_t column,
                                                             float *place) {
    Vector zero = *(const Vector *)(numbers->zero + column), scale = *(const Vector *)(numbers->scale + column);
    *(Vector *)place = (__builtin_convertvector(symbols, Vector) - zero) * scale;
}

static inline float *place_in(Block *block, uint32_t row, uint32_t column) {
    return block->values[column / PANEL] + row * PANEL + column % PANEL;
}

/* W lies as it is multiplied, [depth, columns]. */
static void fill_straight(const Product *p, uint64_t k, uint32_t depth, uint64_t n, uint32_t columns, Block *block) {
    Numbers numbers;
    int32_t wide[BLOCK_COLUMNS] __attribute__((aligned(64)));
    uint8_t edge[BLOCK_COLUMNS] = {0};
    for (uint32_t i = 0; i < depth; i++) {
        const uint8_t *symbols = p->symbols + (k + i) * p->columns + n;
        if (columns < BLOCK_COLUMNS) symbols = memcpy(edge, symbols, columns);
        for (uint32_t j = 0; j < BLOCK_COLUMNS; j++) wide[j] = symbols[j];
        if (i == 0 || p->scale.row || p->zero_point.row) read_numbers(p, k + i, n, 0, BLOCK_COLUMNS, &numbers);
#pragma GCC unroll 16
        for (uint32_t j = 0; j < BLOCK_COLUMNS; j += WIDTH) {
            dequantize(*(const Integers *)(wide + j), &numbers, j, place_in(block, i, j));
        }
    }
}

#if !defined(TANSOR_GATHER) /* an instruction set that gathers says how */
/* Four bytes of each of some columns, which lie `stride` bytes apart. */
static inline Integers gather_words(const uint8_t *symbols, uint64_t stride) {
    int32_t words[WIDTH];
    for (uint32_t j = 0; j < WIDTH; j++) memcpy(&words[j], symbols + j * stride, 4);
    return *(const Integers *)words;
}
#endif

/* The same where a vector's columns are not all there, or not all four bytes. */
static inline Integers gather_edge(const uint8_t *symbols, uint64_t stride, uint32_t columns, uint32_t bytes) {
    int32_t words[WIDTH] = {0};
    for (uint32_t j = 0; j < columns; j++) memcpy(&words[j], symbols + j * stride, bytes);
    return *(const Integers *)words;
}

/* W lies as [columns, depth]: four symbols of a column at a time become four of its rows. A line of each column is used
 * up before the next: columns may lie so far apart that they share their places in the first cache. */
static void fill_turned(const Product *p, uint64_t k, uint32_t depth, uint64_t n, uint32_t columns, Block *block) {
    Numbers numbers;
    bool changes = p->scale.row || p->zero_point.row;
    read_numbers(p, k, n, 0, BLOCK_COLUMNS, &numbers);
    for (uint32_t line = 0; line < depth; line += LINE) {
        for (uint32_t j = 0; j < columns; j += WIDTH) {
            const uint8_t *symbols = p->symbols + (n + j) * p->depth + k;
            for (uint32_t i = line; i < line + LINE && i < depth; i += 4) {
                uint32_t rows = (uint32_t)least(4, depth - i);
                bool is_whole = j + WIDTH <= columns && rows == 4;
                Integers words = is_whole ? (Integers)gather_words(symbols + i, p->depth)
                                          : gather_edge(symbols + i, p->depth, (uint32_t)least(WIDTH, columns - j), rows);
#pragma GCC unroll 4
                for (uint32_t row = 0; row < 4; row++) {
                    if (changes && row < rows) read_numbers(p, k + i + row, n, j, WIDTH, &numbers);
                    dequantize(words >> (int)(8 * row) & 255, &numbers, j, place_in(block, i + row, j));
                }
            }
        }
    }
}

/* ---------------------------------------------------------------------------------------------------------------
 * The product
 */

/* Some rows of X, a constant for the compiler, times a panel; sums go on from what they are. */
__attribute__((always_inline)) static inline void multiply_rows(const float *x, uint64_t x_row, const float *panel,
                                                                uint32_t depth, float *sums, const int rows) {
    Vector sum[ROWS_AT_ONCE][2];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        sum[r][0] = *(const Vector *)(sums + BLOCK_COLUMNS * r);
        sum[r][1] = *(const Vector *)(sums + BLOCK_COLUMNS * r + WIDTH);
    }
    for (uint32_t i = 0; i < depth; i++, panel += PANEL) {
        Vector low = *(const Vector *)panel, high = *(const Vector *)(panel + WIDTH);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            Vector factor = x[(uint64_t)r * x_row + i] - (Vector){0};
            sum[r][0] = MULTIPLY_ADD(factor, low, sum[r][0]);
            sum[r][1] = MULTIPLY_ADD(factor, high, sum[r][1]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        *(Vector *)(sums + BLOCK_COLUMNS * r) = sum[r][0];
        *(Vector *)(sums + BLOCK_COLUMNS * r + WIDTH) = sum[r][1];
    }
}

__attribute__((noinline)) static void multiply_some(const float *x, uint64_t x_row, const float *panel, uint32_t depth, float *sums,
                          uint64_t rows) {
#define CASE(n)                                                                                                        \
    case n:                                                                                                            \
        multiply_rows(x, x_row, panel, depth, sums, (n) < ROWS_AT_ONCE ? (n) : ROWS_AT_ONCE);                          \
        break;
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
    }
#undef CASE
}

static void begin_sums(const Product *p, uint64_t rows, uint64_t n, uint32_t columns, float *sums) {
    memset(sums, 0, rows * BLOCK_COLUMNS * sizeof *sums);
    for (uint64_t m = 0; p->bias && m < rows; m++) memcpy(sums + m * BLOCK_COLUMNS, p->bias + n, columns * sizeof *sums);
}

static void multiply_block(const float *x, uint64_t x_row, const Block *block, uint32_t depth, uint32_t columns,
                           uint64_t rows, float *sums) {
    for (uint32_t j = 0; j < columns; j += PANEL) {
        for (uint64_t m = 0; m < rows; m += ROWS_AT_ONCE) {
            multiply_some(x + m * x_row, x_row, block->values[j / PANEL], depth, sums + m * BLOCK_COLUMNS + j,
                          least(ROWS_AT_ONCE, rows - m));
        }
    }
}

static void write_sums(const Product *p, uint64_t first, uint64_t rows, uint64_t n, uint32_t columns, const float *sums) {
    for (uint64_t m = 0; m < rows; m++) {
        float *y = p->y + (first + m) * p->columns + n;
        const float *row = sums + m * BLOCK_COLUMNS;
        if (columns == BLOCK_COLUMNS) memcpy(y, row, sizeof *row * BLOCK_COLUMNS); /* by vectors: the size is known */
        else memcpy(y, row, sizeof *row * columns);
    }
}

/* Rows of Y in the columns from n on. They are summed side by side: in Y they may lie so far apart that they share their
 * places in the caches. */
static void multiply(const Product *p, uint64_t first_row, uint64_t last_row, uint64_t n) {
    Block block;
    float sums[BLOCK_ROWS * BLOCK_COLUMNS] __attribute__((aligned(64)));
    uint64_t step = last_row - first_row < FEW_ROWS ? FEW_DEPTH : BLOCK_DEPTH;
    uint64_t together = p->depth <= step ? 4 * ROWS_AT_ONCE : BLOCK_ROWS; /* one block does for all rows: sums stay near */
    uint32_t columns = (uint32_t)least(BLOCK_COLUMNS, p->columns - n);
    for (uint64_t first = first_row; first < last_row; first += together) {
        uint64_t rows = least(together, last_row - first);
        begin_sums(p, rows, n, columns, sums);
        for (uint64_t k = 0; k < p->depth; k += step) {
            uint32_t depth = (uint32_t)least(step, p->depth - k);
            if (first == first_row || p->depth > step) {
                (p->is_turned ? fill_turned : fill_straight)(p, k, depth, n, columns, &block);
            }
            multiply_block(p->x + first * p->depth + k, p->depth, &block, depth, columns, rows, sums);
        }
        write_sums(p, first, rows, n, columns, sums);
    }
}

#endif
