/*
 * Memory of a device for ONNX Runtime (its CUDA provider's options gpu_external_alloc and gpu_external_free).
 *
 * ONNX Runtime's own arena splits a large piece that is free for whatever is small: a few activations in the room of
 * a decoded weight, and the next weight needs more memory. Here a piece is given again only for the same size, rounded
 * up a little, so that a run holds of each size as many pieces as it needs at once.
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

enum { LARGE = 1 << 20, PAGE = 2 << 20, LEAST = 512, LISTS = 4096, OLD = 1 << 14 /* requests */ };

typedef struct Piece {
    struct Piece *next;
    Gpu *gpu;
    DevicePointer memory;
    uint64_t size, time; /* of the request that it last served */
    pthread_t thread;    /* that gave it back */
} Piece;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Piece *used[LISTS], *unused[LISTS]; /* by address, by size */
static uint64_t now;

/* Small sizes to a fourth of a power of two, large ones as the driver rounds them itself. */
static uint64_t rounded(uint64_t bytes) {
    if (bytes >= LARGE) return ceil_div(bytes, PAGE) * PAGE;
    uint64_t step = LEAST / 4;
    while (step * 8 < bytes) step *= 2;
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
        if (piece->size != size || piece->gpu != gpu || !pthread_equal(piece->thread, pthread_self())) continue;
        *at = piece->next;
        return piece;
    }
    return NULL;
}

/* Gives the driver what no request has been served with for long; it waits until nothing reads the piece. */
static void release_unused(const Gpu *gpu, uint64_t age) {
    for (size_t i = 0; i < LISTS; i++) {
        for (Piece **at = &unused[i]; *at;) {
            Piece *piece = *at;
            if (piece->gpu != gpu || now - piece->time < age) {
                at = &piece->next;
                continue;
            }
            *at = piece->next;
            release(piece->memory);
            free(piece);
        }
    }
}

static Piece *new_piece(Gpu *gpu, uint64_t size) {
    Piece *piece = malloc(sizeof *piece);
    if (!piece) return NULL;
    release_unused(gpu, OLD);
    *piece = (Piece){.gpu = gpu, .size = size};
    Failure failure = allocate(size, &piece->memory);
    if (failure) {
        release_unused(gpu, 0);
        failure = allocate(size, &piece->memory);
    }
    if (!failure) return piece;
    free(piece);
    return NULL;
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
