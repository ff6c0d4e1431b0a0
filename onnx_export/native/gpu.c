#include "gpu.h"
#include "cache.h"

#include <stdio.h>
#include <stdlib.h>

const char *const TYPE_NAMES[OF_PARTIAL] = {"symbols", "int8",    "uint8",   "int4",
                                            "uint4",   "float32", "float16", "bfloat16"};

#if defined(__linux__)
#include <dlfcn.h>
#include <pthread.h>

/* The kernels' source is a part of this library: the compiler runs where they run. */
#ifndef TANSOR_CUDA_SOURCE
#define TANSOR_CUDA_SOURCE "../../codec/cuda/decode.cu"
#endif
#ifndef TANSOR_HALVES_SOURCE
#define TANSOR_HALVES_SOURCE "halves.cu"
#endif
__asm__(".pushsection .rodata\n"
        ".globl tansor_cuda_source\n.hidden tansor_cuda_source\n"
        "tansor_cuda_source:\n.incbin \"" TANSOR_CUDA_SOURCE "\"\n.incbin \"" TANSOR_HALVES_SOURCE "\"\n.byte 0\n"
        ".popsection\n");
extern const char tansor_cuda_source[] __attribute__((visibility("hidden")));

enum {
    POINTER_DEVICE = 9, DEVICE_MULTIPROCESSORS = 16, DEVICE_MAJOR = 75, DEVICE_MINOR = 76, DEVICE_SHARED_BYTES = 97,
    FUNCTION_SHARED_BYTES = 8, STATIC_SHARED_BYTES = 48 << 10, MAX_DEVICES = 64,
};

static struct {
    int (*Init)(unsigned flags);
    int (*GetErrorString)(int error, const char **text);
    int (*DeviceGet)(int *device, int ordinal);
    int (*DeviceGetAttribute)(int *value, int attribute, int device);
    int (*DevicePrimaryCtxRetain)(void **context, int device);
    int (*CtxPushCurrent)(void *context);
    int (*CtxPopCurrent)(void **context);
    int (*CtxGetDevice)(int *device);
    int (*PointerGetAttribute)(void *value, int attribute, DevicePointer memory);
    int (*ModuleLoadData)(void **module, const void *image);
    int (*ModuleGetFunction)(void **function, void *module, const char *name);
    int (*FuncSetAttribute)(void *function, int attribute, int value);
    int (*MemAlloc)(DevicePointer *memory, size_t bytes);
    int (*MemFree)(DevicePointer memory);
    int (*MemcpyDtoH)(void *host, DevicePointer device, size_t bytes);
    int (*MemcpyHtoD)(DevicePointer device, const void *host, size_t bytes);
    int (*StreamSynchronize)(void *stream);
    int (*LaunchKernel)(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                        unsigned threads_z, unsigned shared_bytes, void *stream, void **arguments, void **extra);
} cu;

static struct {
    int (*CreateProgram)(void **program, const char *source, const char *name, int headers, const char *const *texts,
                         const char *const *names);
    int (*CompileProgram)(void *program, int count, const char *const *options);
    int (*GetCUBINSize)(void *program, size_t *bytes);
    int (*GetCUBIN)(void *program, char *image);
    int (*DestroyProgram)(void **program);
    int (*Version)(int *major, int *minor);
} rtc;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Gpu gpus[MAX_DEVICES];

/* ---------------------------------------------------------------------------------------------------------------
 * Libraries
 */

typedef struct {
    void *place;
    const char *name;
} Symbol;

static bool find_symbols(void *library, const Symbol *symbols, size_t count) {
    for (size_t i = 0; i < count; i++) {
        void *address = dlsym(library, symbols[i].name);
        if (!address) return false;
        memcpy(symbols[i].place, &address, sizeof address);
    }
    return true;
}

static Failure load_driver(void) {
    static bool is_loaded;
    static const Symbol symbols[] = {
        {&cu.Init, "cuInit"}, {&cu.GetErrorString, "cuGetErrorString"}, {&cu.DeviceGet, "cuDeviceGet"},
        {&cu.DeviceGetAttribute, "cuDeviceGetAttribute"}, {&cu.DevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain"},
        {&cu.CtxPushCurrent, "cuCtxPushCurrent_v2"}, {&cu.CtxPopCurrent, "cuCtxPopCurrent_v2"}, {&cu.CtxGetDevice, "cuCtxGetDevice"},
        {&cu.PointerGetAttribute, "cuPointerGetAttribute"}, {&cu.ModuleLoadData, "cuModuleLoadData"},
        {&cu.ModuleGetFunction, "cuModuleGetFunction"}, {&cu.FuncSetAttribute, "cuFuncSetAttribute"},
        {&cu.MemAlloc, "cuMemAlloc_v2"}, {&cu.MemFree, "cuMemFree_v2"}, {&cu.MemcpyDtoH, "cuMemcpyDtoH_v2"},
        {&cu.MemcpyHtoD, "cuMemcpyHtoD_v2"}, {&cu.StreamSynchronize, "cuStreamSynchronize"},
        {&cu.LaunchKernel, "cuLaunchKernel"},
    };
    if (is_loaded) return NULL;
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (!library) return "no NVIDIA driver: libcuda.so.1 is not found";
    if (!find_symbols(library, symbols, sizeof symbols / sizeof *symbols)) return "the NVIDIA driver is too old";
    if (cu.Init(0)) return "the NVIDIA driver finds no device";
    is_loaded = true;
    return NULL;
}

static Failure load_compiler(void) {
    static bool is_loaded;
    static const char *const names[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"};
    static const Symbol symbols[] = {
        {&rtc.CreateProgram, "nvrtcCreateProgram"}, {&rtc.CompileProgram, "nvrtcCompileProgram"},
        {&rtc.GetCUBINSize, "nvrtcGetCUBINSize"}, {&rtc.GetCUBIN, "nvrtcGetCUBIN"},
        {&rtc.DestroyProgram, "nvrtcDestroyProgram"}, {&rtc.Version, "nvrtcVersion"},
    };
    for (size_t i = 0; i < 3 && !is_loaded; i++) {
        void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        is_loaded = library && find_symbols(library, symbols, sizeof symbols / sizeof *symbols);
    }
    return is_loaded ? NULL : "CUDA's compiler libnvrtc is not found: it comes with onnxruntime-gpu[cuda,cudnn]";
}

/* A driver's error as what is wrong. The text is one of the driver's own. */
static Failure failed(int error) {
    const char *text = NULL;
    if (!error) return NULL;
    cu.GetErrorString(error, &text);
    return text ? text : "an unknown error of the NVIDIA driver";
}

/* ---------------------------------------------------------------------------------------------------------------
 * Devices
 */

static int attribute_of(int device, int attribute) {
    int value = 0;
    cu.DeviceGetAttribute(&value, attribute, device);
    return value;
}

static Failure compile(const char *architecture, int module, char **image, size_t *bytes) {
    char target[48], only[48];
    const char *options[] = {target, "--std=c++17", only, "-DTANS_PARTIAL"};
    void *program = NULL;
    Failure failure = "CUDA's compiler refuses the kernels for this device";
    snprintf(target, sizeof target, "--gpu-architecture=%s", architecture);
    snprintf(only, sizeof only, "-DTANS_ONLY_%s", TYPE_NAMES[module & ~OF_PARTIAL]);
    if (rtc.CreateProgram(&program, tansor_cuda_source, "tansor.cu", 0, NULL, NULL)) return failure;
    if (!rtc.CompileProgram(program, module & OF_PARTIAL ? 4 : 3, options) && !rtc.GetCUBINSize(program, bytes) &&
        (*image = malloc(*bytes)) && !rtc.GetCUBIN(program, *image)) {
        failure = NULL;
    }
    rtc.DestroyProgram(&program);
    return failure;
}

/* The module's machine code, compiled once for all processes of a user. */
static Failure build_module(const char *architecture, int module, void **loaded) {
    char name[128], *image;
    int major = 0, minor = 0;
    size_t bytes = 0;
    Failure failure = load_compiler();
    if (failure) return failure;
    rtc.Version(&major, &minor);
    snprintf(name, sizeof name, "%016llx-%s-%s%s-nvrtc%d.%d.cubin", (unsigned long long)hash_of(tansor_cuda_source),
             architecture, TYPE_NAMES[module & ~OF_PARTIAL], module & OF_PARTIAL ? "-partial" : "", major, minor);
    image = read_cached(name, &bytes);
    if (image && !cu.ModuleLoadData(loaded, image)) {
        free(image);
        return NULL;
    }
    free(image);
    image = NULL;
    failure = compile(architecture, module, &image, &bytes);
    if (!failure) failure = failed(cu.ModuleLoadData(loaded, image));
    if (!failure) write_cached(name, image, bytes);
    free(image);
    return failure;
}

static Failure find_module(Gpu *gpu, int module, void **found) {
    char architecture[16];
    if ((*found = gpu->modules[module])) return NULL;
    snprintf(architecture, sizeof architecture, "sm_%d%d", attribute_of(gpu->device, DEVICE_MAJOR),
             attribute_of(gpu->device, DEVICE_MINOR));
    Failure failure = build_module(architecture, module, &gpu->modules[module]);
    *found = gpu->modules[module];
    return failure;
}

static Failure open_gpu(Gpu *gpu, int ordinal) {
    Failure failure = failed(cu.DeviceGet(&gpu->device, ordinal));
    if (failure) return failure;
    gpu->multiprocessors = (unsigned)attribute_of(gpu->device, DEVICE_MULTIPROCESSORS);
    gpu->shared_bytes = (uint64_t)attribute_of(gpu->device, DEVICE_SHARED_BYTES);
    return failed(cu.DevicePrimaryCtxRetain(&gpu->context, gpu->device));
}

Failure number_gpu(int ordinal, Gpu **gpu) {
    pthread_mutex_lock(&lock);
    Failure failure = load_driver();
    if (!failure && (ordinal < 0 || ordinal >= MAX_DEVICES)) failure = "an unknown device";
    if (!failure && !gpus[ordinal].context) failure = open_gpu(&gpus[ordinal], ordinal);
    pthread_mutex_unlock(&lock);
    if (!failure) *gpu = &gpus[ordinal];
    return failure;
}

/* A device is the same number to the driver and in a list of devices. */
Failure current_gpu(Gpu **gpu) {
    int ordinal = 0;
    pthread_mutex_lock(&lock);
    Failure failure = load_driver();
    if (!failure && cu.CtxGetDevice(&ordinal)) ordinal = 0; /* a thread that has used none yet */
    pthread_mutex_unlock(&lock);
    return failure ? failure : number_gpu(ordinal, gpu);
}

Failure find_gpu(const void *memory, Gpu **gpu) {
    int ordinal = -1;
    pthread_mutex_lock(&lock);
    Failure failure = load_driver();
    if (!failure) failure = failed(cu.PointerGetAttribute(&ordinal, POINTER_DEVICE, (DevicePointer)(uintptr_t)memory));
    pthread_mutex_unlock(&lock);
    return failure ? failure : number_gpu(ordinal, gpu);
}

Failure enter(const Gpu *gpu) { return failed(cu.CtxPushCurrent(gpu->context)); }

void leave(void) {
    void *context;
    cu.CtxPopCurrent(&context);
}

/* ---------------------------------------------------------------------------------------------------------------
 * Memory and kernels
 */

Failure allocate(uint64_t bytes, DevicePointer *memory) {
    *memory = 0;
    return bytes ? failed(cu.MemAlloc(memory, (size_t)bytes)) : NULL;
}

void release(DevicePointer memory) {
    if (memory) cu.MemFree(memory);
}

Failure to_host(void *host, const void *device, uint64_t bytes) {
    return bytes ? failed(cu.MemcpyDtoH(host, (DevicePointer)(uintptr_t)device, (size_t)bytes)) : NULL;
}

Failure to_device(DevicePointer device, const void *host, uint64_t bytes) {
    return bytes ? failed(cu.MemcpyHtoD(device, host, (size_t)bytes)) : NULL;
}

Failure wait_for(void *stream) { return failed(cu.StreamSynchronize(stream)); }

static Failure find_kernel(Gpu *gpu, int number, const char *name, GpuKernel **found) {
    void *module = NULL;
    Failure failure = find_module(gpu, number, &module);
    for (int i = 0; i < gpu->kernel_count && !failure; i++) {
        *found = &gpu->kernels[i];
        if ((*found)->module == module && !strcmp((*found)->name, name)) return NULL;
    }
    if (!failure && gpu->kernel_count == MAX_GPU_KERNELS) failure = "more kernels than there are";
    if (failure) return failure;
    *found = &gpu->kernels[gpu->kernel_count];
    failure = failed(cu.ModuleGetFunction(&(*found)->function, module, name));
    if (failure) return failure;
    (*found)->module = module;
    snprintf((*found)->name, sizeof(*found)->name, "%s", name);
    (*found)->shared_bytes = STATIC_SHARED_BYTES;
    gpu->kernel_count++;
    return NULL;
}

static Failure allow(GpuKernel *kernel, uint64_t shared_bytes) {
    if (shared_bytes <= kernel->shared_bytes) return NULL;
    Failure failure = failed(cu.FuncSetAttribute(kernel->function, FUNCTION_SHARED_BYTES, (int)shared_bytes));
    if (!failure) kernel->shared_bytes = shared_bytes;
    return failure;
}

Failure launch(Gpu *gpu, int module, const char *name, Grid grid, void *stream, void **arguments) {
    GpuKernel *kernel = NULL;
    pthread_mutex_lock(&lock);
    Failure failure = find_kernel(gpu, module, name, &kernel);
    if (!failure) failure = allow(kernel, grid.shared_bytes);
    pthread_mutex_unlock(&lock);
    if (failure) return failure;
    return failed(cu.LaunchKernel(kernel->function, (unsigned)grid.blocks, 1, 1, grid.threads, 1, 1,
                                  (unsigned)grid.shared_bytes, stream, arguments, NULL));
}

#else /* no other system has NVIDIA's driver and ONNX Runtime with CUDA */

static const char NO_CUDA[] = "this library has no CUDA kernels on this system";
Failure find_gpu(const void *memory, Gpu **gpu) { return (void)memory, (void)gpu, NO_CUDA; }
Failure enter(const Gpu *gpu) { return (void)gpu, NO_CUDA; }
void leave(void) {}
Failure allocate(uint64_t bytes, DevicePointer *memory) { return (void)bytes, *memory = 0, NO_CUDA; }
void release(DevicePointer memory) { (void)memory; }
Failure to_host(void *host, const void *device, uint64_t bytes) { return (void)host, (void)device, (void)bytes, NO_CUDA; }
Failure to_device(DevicePointer device, const void *host, uint64_t bytes) {
    return (void)device, (void)host, (void)bytes, NO_CUDA;
}
Failure wait_for(void *stream) { return (void)stream, NO_CUDA; }
Failure current_gpu(Gpu **gpu) { return (void)gpu, NO_CUDA; }
Failure number_gpu(int ordinal, Gpu **gpu) { return (void)ordinal, (void)gpu, NO_CUDA; }
Failure launch(Gpu *gpu, int module, const char *name, Grid grid, void *stream, void **arguments) {
    return (void)gpu, (void)module, (void)name, (void)grid, (void)stream, (void)arguments, NO_CUDA;
}

#endif
