/* The decoder in plain C. */
#define WIDTH 4
#define ROWS_AT_ONCE 6
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#include "product.h"
#include "tile.h"

static Mask step_group(const Steps *steps, Lanes *lanes, unsigned count, uint32_t keep, uint8_t row[ROW]) {
    Mask leaders = {{0}};
    for (unsigned lane = 0; lane < count; lane++) {
        leaders.half[lane / 64] |= (uint64_t)step_lane(steps, lanes, lane, keep, row + GROUP * lane) << lane % 64;
    }
    return leaders;
}

const Decoder portable_decoder = {"portable", decode_tile, write_placed, write_coded, multiply, settle};
