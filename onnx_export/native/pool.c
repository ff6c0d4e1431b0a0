/*
 * Memory of a device for ONNX Runtime (its CUDA provider's options gpu_external_alloc and gpu_external_free).
 *
 * ONNX Runtime's own arena splits a large piece that is free for whatever is small: a few activations in the room of
 * a decoded weight, and the next weight needs more memory. Here a piece is given again only for the same size, so
 * that a run holds of each size as many pieces as it needs at once. The driver gives whole megabytes: pieces below
 * sixteen are cut from chunks.
 *
 * A piece that is given back may still be read by what was launched. Only the thread that gave it back gets it
 * again: it launches on the same stream, or has waited for the end of a run in between.
 */
#include <stdlib.h>

#include "gpu.h"

#if defined(__linux__)
#include <pthread.h>

#if defined(__GNUC__)
#define EXPORTED __attribute__((visibility("default")))
#else
#define EXPORTED
#endif

enum { LARGE = 16 << 20, CHUNK = 32 << 20, ALIGNMENT = 512, LISTS = 4096, OLD = 1 << 13 /* requests */ };

/* Memory of the driver's, from which pieces are cut one behind the other. */
typedef struct Chunk {
    struct Chunk *next;
    Gpu *gpu;
    DevicePointer memory;
    uint64_t size, cut, pieces;
} Chunk;

typedef struct Piece {
    struct Piece *next;
    Chunk *chunk;
    DevicePointer memory;
    uint64_t size, time; /* of the request that it last served */
    pthread_t thread;    /* that gave it back */
} Piece;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Chunk *chunks;
static Piece *used[LISTS], *unused[LISTS]; /* by address, by size */
static uint64_t now;

/* Up to a sixteenth more, so that sizes that hardly differ share pieces. */
static uint64_t rounded(uint64_t bytes) {
    uint64_t step = ALIGNMENT;
    while (32 * step <= bytes) step *= 2;
    return ceil_div(bytes, step) * step;
}

static size_t list_of(uint64_t number) { return (size_t)(number * 0x9E3779B97F4A7C15u >> 52); }

static void push(Piece **list, Piece *piece) {
    piece->next = *list;
    *list = piece;
}

static Piece *take_unused(const Gpu *gpu, uint64_t size) {
    for (Piece **at = &unused[list_of(size)]; *at; at = &(*at)->next) {
        Piece *piece = *at;
        if (piece->size != size || piece->chunk->gpu != gpu || !pthread_equal(piece->thread, pthread_self())) continue;
        *at = piece->next;
        return piece;
    }
    return NULL;
}

/* Gives the driver chunks without a piece; it waits until nothing reads them. */
static void release_chunks(void) {
    for (Chunk **at = &chunks; *at;) {
        Chunk *chunk = *at;
        if (chunk->pieces) {
            at = &chunk->next;
            continue;
        }
        *at = chunk->next;
        release(chunk->memory);
        free(chunk);
    }
}

/* Forgets pieces that no request has been served with for long. */
static void release_unused(const Gpu *gpu, uint64_t age) {
    for (size_t i = 0; i < LISTS; i++) {
        for (Piece **at = &unused[i]; *at;) {
            Piece *piece = *at;
            if (piece->chunk->gpu != gpu || now - piece->time < age) {
                at = &piece->next;
                continue;
            }
            *at = piece->next;
            piece->chunk->pieces--;
            free(piece);
        }
    }
    release_chunks();
}

static Chunk *new_chunk(Gpu *gpu, uint64_t size) {
    Chunk *chunk = calloc(1, sizeof *chunk);
    if (!chunk) return NULL;
    release_unused(gpu, OLD);
    chunk->gpu = gpu;
    chunk->size = size < LARGE ? CHUNK : size;
    Failure failure = allocate(chunk->size, &chunk->memory);
    if (failure) {
        release_unused(gpu, 0);
        failure = allocate(chunk->size, &chunk->memory);
    }
    if (failure && chunk->size > size) { /* near the end of the device's memory the piece alone may fit */
        chunk->size = size;
        failure = allocate(chunk->size, &chunk->memory);
    }
    if (failure) {
        free(chunk);
        return NULL;
    }
    chunk->next = chunks;
    chunks = chunk;
    return chunk;
}

static Chunk *chunk_with(Gpu *gpu, uint64_t size) {
    for (Chunk *chunk = chunks; chunk; chunk = chunk->next) {
        if (chunk->gpu == gpu && chunk->size - chunk->cut >= size) return chunk;
    }
    return new_chunk(gpu, size);
}

static Piece *new_piece(Gpu *gpu, uint64_t size) {
    Piece *piece = malloc(sizeof *piece);
    Chunk *chunk = piece ? chunk_with(gpu, size) : NULL;
    if (!chunk) {
        free(piece);
        return NULL;
    }
    *piece = (Piece){.chunk = chunk, .memory = chunk->memory + chunk->cut, .size = size};
    chunk->cut += size;
    chunk->pieces++;
    return piece;
}

static Piece *take(Gpu *gpu, uint64_t size) {
    now++;
    Piece *piece = take_unused(gpu, size);
    if (!piece) piece = new_piece(gpu, size);
    if (!piece) return NULL;
    piece->time = now;
    push(&used[list_of(piece->memory)], piece);
    return piece;
}

/* Null if the device has not so much. */
EXPORTED void *tansor_pool_allocate(size_t bytes) {
    Gpu *gpu = NULL;
    if (bytes == 0 || current_gpu(&gpu) || enter(gpu)) return NULL;
    pthread_mutex_lock(&lock);
    const Piece *piece = take(gpu, rounded(bytes));
    void *memory = piece ? (void *)(uintptr_t)piece->memory : NULL;
    pthread_mutex_unlock(&lock);
    leave();
    return memory;
}

EXPORTED void tansor_pool_free(void *memory) {
    DevicePointer address = (DevicePointer)(uintptr_t)memory;
    pthread_mutex_lock(&lock);
    for (Piece **at = &used[list_of(address)]; *at; at = &(*at)->next) {
        Piece *piece = *at;
        if (piece->memory != address) continue;
        *at = piece->next;
        piece->thread = pthread_self();
        push(&unused[list_of(piece->size)], piece);
        break;
    }
    pthread_mutex_unlock(&lock);
}

/* ONNX Runtime calls it when a session's initializers go. */
EXPORTED void tansor_pool_empty(void) {
    Gpu *gpu = NULL;
    if (current_gpu(&gpu) || enter(gpu)) return;
    pthread_mutex_lock(&lock);
    release_unused(gpu, 0);
    pthread_mutex_unlock(&lock);
    leave();
}

#endif
