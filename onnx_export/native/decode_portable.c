/* The decoder in plain C. */
#include "tile.h"

static uint64_t step_group(const Steps *steps, Lanes *lanes, uint32_t keep, uint8_t row[ROW]) {
    uint64_t leaders = 0;
    for (unsigned lane = 0; lane < LANES; lane++) {
        leaders |= (uint64_t)step_lane(steps, lanes, lane, keep, row + GROUP * lane) << lane;
    }
    return leaders;
}

const Decoder portable_decoder = {"portable", decode_tile, write_placed, write_coded};
