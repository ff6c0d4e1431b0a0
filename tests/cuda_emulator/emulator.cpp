// The kernels of decode.cu on the CPU, to be called by ctypes: launch(name, blocks, threads, shared bytes, arguments).
#include "shim.h"

#include KERNELS_TEXT

#include <sys/mman.h>
#include <tuple>
#include <utility>

thread_local u32 shared[1 << 18];

static ucontext_t scheduler;
static std::vector<ucontext_t> threads;
static std::vector<bool> done;
static void (*body)(void *, void **);
static void *kernel;
static void **arguments;

void wait_for_all() { swapcontext(&threads[threadIdx.x], &scheduler); }

static void run_thread() {
    body(kernel, arguments);
    done[threadIdx.x] = true;
    swapcontext(&threads[threadIdx.x], &scheduler);
}

static void run_block(unsigned size) {
    static const size_t stack = 64 << 10;
    static char *stacks = (char *)mmap(nullptr, 1024 * stack, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    threads.resize(size);
    done.assign(size, false);
    for (unsigned i = 0; i < size; ++i) {
        getcontext(&threads[i]);
        threads[i].uc_stack.ss_sp = stacks + i * stack;
        threads[i].uc_stack.ss_size = stack;
        makecontext(&threads[i], run_thread, 0);
    }
    for (bool any = true; any;) {
        any = false;
        for (unsigned i = 0; i < size; ++i) {
            if (done[i]) continue;
            any = true;
            threadIdx.x = i;
            swapcontext(&scheduler, &threads[i]);
        }
    }
}

template <class... Types, size_t... i>
static void call(void (*function)(Types...), void **values, std::index_sequence<i...>) {
    function(*(Types *)values[i]...);
}
template <class... Types> static void unpack(void *function, void **values) {
    call((void (*)(Types...))function, values, std::index_sequence_for<Types...>());
}
struct Kernel {
    const char *name;
    void *function;
    void (*body)(void *, void **);
};
template <class... Types> static Kernel entry(const char *name, void (*function)(Types...)) {
    return {name, (void *)function, unpack<Types...>};
}
#define ENTRY(name) entry(#name, name)
#define ENTRIES(type)                                                                                                  \
    ENTRY(tans_decode_##type), ENTRY(tans_decode_##type##_packed), ENTRY(tans_values_##type),                          \
        ENTRY(tans_partial_##type), ENTRY(tans_partial_##type##_packed)
static const Kernel kernels[] = {
    ENTRY(tans_model), ENTRY(tans_lane_bits), ENTRY(tans_positions), ENTRIES(symbols), ENTRIES(int8), ENTRIES(uint8),
    ENTRIES(int4), ENTRIES(uint4), ENTRIES(float32), ENTRIES(float16), ENTRIES(bfloat16),
};

extern "C" int launch(const char *name, unsigned blocks, unsigned size, unsigned shared_bytes, void **values) {
    for (const Kernel &candidate : kernels) {
        if (strcmp(candidate.name, name)) continue;
        if (shared_bytes > sizeof shared || size > 1024) return 2;
        body = candidate.body;
        kernel = candidate.function;
        arguments = values;
        gridDim.x = blocks;
        blockDim.x = size;
        for (unsigned i = 0; i < blocks; ++i) {
            blockIdx.x = i;
            memset(shared, 0xA5, sizeof shared);
            run_block(size);
        }
        return 0;
    }
    return 1;
}
