/* NVIDIA's driver and run-time compiler, found when the first kernel needs them; nothing is linked. */
#ifndef TANSOR_GPU_H
#define TANSOR_GPU_H

#include "tansor.h"

typedef uint64_t DevicePointer;

/* What the text is compiled for. */
enum { OF_SYMBOLS, OF_INT8, OF_UINT8, OF_INT4, OF_UINT4, OF_FLOAT32, OF_FLOAT16, OF_BFLOAT16, OF_PARTIAL = 8 };
extern const char *const TYPE_NAMES[OF_PARTIAL]; /* in the names of kernels */

/* A kernel of the module, and how much shared memory it may have. */
typedef struct {
    char name[48];
    void *module, *function;
    uint64_t shared_bytes;
} GpuKernel;

enum { MAX_GPU_KERNELS = 160, MODULES = 16 };

/* Compiling takes seconds for each type of results: each is a module of its own, compiled when it is needed, and another
 * one for mode partial. */
typedef struct {
    int device;
    void *context, *modules[MODULES];
    unsigned multiprocessors;
    uint64_t shared_bytes; /* that a block can have */
    GpuKernel kernels[MAX_GPU_KERNELS];
    int kernel_count;
} Gpu;

typedef struct {
    uint64_t blocks;
    unsigned threads;
    uint64_t shared_bytes;
} Grid;

/* The device on which memory lies, of a number, or that this thread uses. */
Failure find_gpu(const void *memory, Gpu **gpu);
Failure number_gpu(int ordinal, Gpu **gpu);
Failure current_gpu(Gpu **gpu);

/* Between these two all is done on the device. */
Failure enter(const Gpu *gpu);
void leave(void);

Failure allocate(uint64_t bytes, DevicePointer *memory); /* 0 bytes: null */
void release(DevicePointer memory);
Failure to_host(void *host, const void *device, uint64_t bytes); /* waits for all that was launched on no stream */
Failure to_device(DevicePointer device, const void *host, uint64_t bytes);
Failure wait_for(void *stream);
/* A kernel of one of the modules. */
Failure launch(Gpu *gpu, int module, const char *kernel, Grid grid, void *stream, void **arguments);

#endif
