/* The decoder in plain C. */
/* Products may be fused with the sums they go into where the processor does that; values are differences times scales,
 * which cannot be. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast")
#endif
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
