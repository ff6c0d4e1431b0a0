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

enum { DEPTH = 256, PANEL = 2 * WIDTH, PANELS = BLOCK_COLUMNS / PANEL, VECTORS = BLOCK_COLUMNS / WIDTH };

typedef float Vector __attribute__((vector_size(4 * WIDTH), aligned(4)));
typedef int32_t Integers __attribute__((vector_size(4 * WIDTH), aligned(4)));

/* Floats of a part of W: panels side by side, each row by row. A panel stays in the first cache while rows of X pass. */
typedef struct {
    float values[PANELS][DEPTH * PANEL];
} __attribute__((aligned(64))) Block;

/* What turns the symbols of a row into floats. */
typedef struct {
    float scale[BLOCK_COLUMNS], zero[BLOCK_COLUMNS];
} __attribute__((aligned(64))) Numbers;

/* ---------------------------------------------------------------------------------------------------------------
 * Symbols to floats: the same numbers as in values.h
 */

/* Those of row k and the columns from n on. */
static inline void read_numbers(const Product *p, uint64_t k, uint64_t n, uint32_t columns, Numbers *numbers) {
    const Strides *scale = &p->scale, *zero = &p->zero_point;
    const unaligned_float *scales = (const unaligned_float *)scale->data + k * scale->row + n * scale->column;
    const uint8_t *zeros = (const uint8_t *)zero->data + k * zero->row + n * zero->column;
    uint32_t count = scale->column ? columns : 1, zero_count = zero->column ? columns : 1;
    for (uint32_t j = 0; j < count; j++) numbers->scale[j] = scales[j * scale->column];
    for (uint32_t j = count; j < BLOCK_COLUMNS; j++) numbers->scale[j] = scales[0];
    for (uint32_t j = 0; j < zero_count; j++) numbers->zero[j] = zeros[j * zero->column];
    for (uint32_t j = zero_count; j < BLOCK_COLUMNS; j++) numbers->zero[j] = zeros[0];
}

/* A row from one byte of each word. */
__attribute__((always_inline)) static inline void dequantize(const uint32_t words[BLOCK_COLUMNS], unsigned byte,
                                                             const Numbers *numbers, uint32_t row, Block *block) {
#pragma GCC unroll 16
    for (unsigned v = 0; v < VECTORS; v++) {
        Integers symbols = *(const Integers *)(words + WIDTH * v) >> (int)(8 * byte) & 255;
        Vector zero = *(const Vector *)(numbers->zero + WIDTH * v), scale = *(const Vector *)(numbers->scale + WIDTH * v);
        float *place = block->values[v / 2] + row * PANEL + v % 2 * WIDTH;
        *(Vector *)place = (__builtin_convertvector(symbols, Vector) - zero) * scale;
    }
}

/* W lies as it is multiplied, [depth, columns]. */
static void fill_straight(const Product *p, uint64_t k, uint32_t depth, uint64_t n, uint32_t columns, Block *block) {
    Numbers numbers;
    uint32_t words[BLOCK_COLUMNS] __attribute__((aligned(64)));
    uint8_t edge[BLOCK_COLUMNS] = {0};
    for (uint32_t i = 0; i < depth; i++) {
        const uint8_t *symbols = p->symbols + (k + i) * p->columns + n;
        if (columns < BLOCK_COLUMNS) symbols = memcpy(edge, symbols, columns);
        for (uint32_t j = 0; j < BLOCK_COLUMNS; j++) words[j] = symbols[j];
        if (i == 0 || p->scale.row || p->zero_point.row) read_numbers(p, k + i, n, columns, &numbers);
        dequantize(words, 0, &numbers, i, block);
    }
}

#if !defined(TANSOR_GATHER) /* an instruction set that gathers says how */
/* Four bytes of each of some columns, which lie `stride` bytes apart. */
static inline void gather_words(const uint8_t *symbols, uint64_t stride, uint32_t columns, uint32_t *words) {
    for (uint32_t j = 0; j < columns; j++) memcpy(&words[j], symbols + j * stride, 4);
}
#endif

/* W lies as [columns, depth]: four symbols of a column at a time become four of its rows. */
static void fill_turned(const Product *p, uint64_t k, uint32_t depth, uint64_t n, uint32_t columns, Block *block) {
    Numbers numbers;
    uint32_t words[BLOCK_COLUMNS] __attribute__((aligned(64))) = {0};
    bool is_even = !p->scale.row && !p->zero_point.row;
    read_numbers(p, k, n, columns, &numbers);
    for (uint32_t i = 0; i < depth; i += 4) {
        const uint8_t *symbols = p->symbols + n * p->depth + k + i;
        uint32_t rows = (uint32_t)least(4, depth - i);
        if (rows == 4) gather_words(symbols, p->depth, columns, words);
        else for (uint32_t j = 0; j < columns; j++) memcpy(&words[j], symbols + j * p->depth, rows);
        if (rows == 4 && is_even) {
#pragma GCC unroll 4
            for (uint32_t row = 0; row < 4; row++) dequantize(words, row, &numbers, i + row, block);
            continue;
        }
        for (uint32_t row = 0; row < rows; row++) {
            read_numbers(p, k + i + row, n, columns, &numbers);
            dequantize(words, row, &numbers, i + row, block);
        }
    }
}

/* ---------------------------------------------------------------------------------------------------------------
 * The product
 */

/* Some rows of X, a constant for the compiler, times a panel; sums go on from what is in y. */
__attribute__((always_inline)) static inline void multiply_rows(const float *x, uint64_t x_row, const float *panel,
                                                                uint32_t depth, float *y, uint64_t y_row,
                                                                const int rows) {
    Vector sum[ROWS_AT_ONCE][2];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        sum[r][0] = *(const Vector *)(y + (uint64_t)r * y_row);
        sum[r][1] = *(const Vector *)(y + (uint64_t)r * y_row + WIDTH);
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
        *(Vector *)(y + (uint64_t)r * y_row) = sum[r][0];
        *(Vector *)(y + (uint64_t)r * y_row + WIDTH) = sum[r][1];
    }
}

static void multiply_some(const float *x, uint64_t x_row, const float *panel, uint32_t depth, float *y, uint64_t y_row,
                          uint64_t rows) {
#define CASE(n)                                                                                                        \
    case n:                                                                                                            \
        multiply_rows(x, x_row, panel, depth, y, y_row, (n) < ROWS_AT_ONCE ? (n) : ROWS_AT_ONCE);                      \
        break;
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
    }
#undef CASE
}

/* Rows of X times a panel, which may have fewer columns than fit. */
static void multiply_panel(const Product *p, const float *panel, uint64_t k, uint32_t depth, uint64_t n,
                           uint32_t columns, uint64_t first_row, uint64_t last_row) {
    for (uint64_t m = first_row; m < last_row; m += ROWS_AT_ONCE) {
        uint64_t rows = least(ROWS_AT_ONCE, last_row - m);
        const float *x = p->x + m * p->depth + k;
        float *y = p->y + m * p->columns + n;
        if (columns == PANEL) {
            multiply_some(x, p->depth, panel, depth, y, p->columns, rows);
            continue;
        }
        float edge[ROWS_AT_ONCE * PANEL] = {0};
        for (uint64_t r = 0; r < rows; r++) memcpy(edge + r * PANEL, y + r * p->columns, columns * sizeof *y);
        multiply_some(x, p->depth, panel, depth, edge, PANEL, rows);
        for (uint64_t r = 0; r < rows; r++) memcpy(y + r * p->columns, edge + r * PANEL, columns * sizeof *y);
    }
}

static void begin_sums(const Product *p, uint64_t first_row, uint64_t last_row, uint64_t n, uint32_t columns) {
    for (uint64_t m = first_row; m < last_row; m++) {
        float *y = p->y + m * p->columns + n;
        if (p->bias) memcpy(y, p->bias + n, columns * sizeof *y);
        else memset(y, 0, columns * sizeof *y);
    }
}

/* Rows of Y in the columns from n on. */
static void multiply(const Product *p, uint64_t first_row, uint64_t last_row, uint64_t n) {
    Block block;
    uint32_t columns = (uint32_t)least(BLOCK_COLUMNS, p->columns - n);
    begin_sums(p, first_row, last_row, n, columns);
    for (uint64_t k = 0; k < p->depth; k += DEPTH) {
        uint32_t depth = (uint32_t)least(DEPTH, p->depth - k);
        if (p->is_turned) fill_turned(p, k, depth, n, columns, &block);
        else fill_straight(p, k, depth, n, columns, &block);
        for (uint32_t j = 0; j < columns; j += PANEL) {
            uint32_t here = (uint32_t)least(PANEL, columns - j);
            multiply_panel(p, block.values[j / PANEL], k, depth, n + j, here, first_row, last_row);
        }
    }
}

#endif
