/* CRC-32 (docs/spec/frame.md, "Checksums"), eight bytes at a time: a table for each place in them. */
#include <pthread.h>

#include "tansor.h"

static uint32_t table[8][256];

static void make_table(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
        table[0][byte] = crc;
    }
    for (int place = 1; place < 8; place++) {
        for (int byte = 0; byte < 256; byte++) {
            uint32_t crc = table[place - 1][byte];
            table[place][byte] = crc >> 8 ^ table[0][crc & 255];
        }
    }
}

uint32_t crc32_of(uint32_t crc, const void *data, uint64_t size) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_table);
    const uint8_t *bytes = data;
    crc = ~crc;
    for (; size >= 8; size -= 8, bytes += 8) {
        uint64_t eight = load64(bytes) ^ crc;
        crc = 0;
        for (int place = 0; place < 8; place++) crc ^= table[7 - place][eight >> 8 * place & 255];
    }
    for (; size; size--) crc = crc >> 8 ^ table[0][(crc ^ *bytes++) & 255];
    return ~crc;
}
