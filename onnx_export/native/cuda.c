/*
 * The kernel for NVIDIA's devices: launches what codec/cuda/decode.cu describes in its INTERFACE.
 *
 * Constant inputs are checked once, when the kernel is created: all that a processor can check on a copy, then the
 * lanes by a first decoding on the device, whose status is read. What was right then stays right, so that a run only
 * launches: it waits for nothing and allocates nothing, and may be captured in a CUDA graph.
 */
#include <stdio.h>
#include <stdlib.h>

#include "gpu.h"
#include "kernel.h"

enum {
    MODEL_BYTES = 4 * 4352, SCAN_LANES = 4096, SCAN_THREADS = 1024, WARP = 32, MAX_WARPS = 32, FEW_WARPS = 8,
    STAGE_SLACK = 16, CLASS_WORDS = 256, RAW_WARPS = 16, VALUE_THREADS = 256, VALUE_BLOCKS = 8 /* for each multiprocessor */
};

/* A scale or zero point as kernels read it: element i has data[i / inner % count]. */
typedef struct {
    const void *data;
    DevicePointer own; /* a copy, if the inputs do not lie so */
    uint32_t inner, count;
} Spread;

struct Device {
    Gpu *gpu;
    Call call; /* its data is the device's */
    DevicePointer model, block_bits, positions, status, units, elements, only;
    Spread scale, zero_point;
    Grid grid;
    uint32_t stage_words;
};

/* ---------------------------------------------------------------------------------------------------------------
 * Checks on a copy
 */

static void free_copies(const Kernel *kernel, Tensor copies[ROLES]) {
    for (size_t i = 0; i < kernel->function->input_count; i++) {
        Tensor *copy = &copies[kernel->function->inputs[i]];
        if (copy->type != TYPE_INT64) free((void *)copy->data);
    }
}

/* Inputs of 64-bit integers lie in the processor's memory already. */
static Failure copy_inputs(const Kernel *kernel, const Tensor inputs[ROLES], Tensor copies[ROLES]) {
    Failure failure = NULL;
    memcpy(copies, inputs, ROLES * sizeof *copies);
    for (size_t i = 0; i < kernel->function->input_count; i++) {
        Tensor *copy = &copies[kernel->function->inputs[i]];
        if (copy->type != TYPE_INT64) copy->data = NULL;
    }
    for (size_t i = 0; i < kernel->function->input_count && !failure; i++) {
        Role role = kernel->function->inputs[i];
        if (copies[role].type == TYPE_INT64) continue;
        void *memory = malloc(copies[role].bytes ? (size_t)copies[role].bytes : 1);
        copies[role].data = memory;
        failure = memory ? to_host(memory, inputs[role].data, inputs[role].bytes) : "LimitExceeded: not enough memory";
    }
    return failure;
}

/* What fits the numbers that kernels take. */
static Failure check_size(const Call *call) {
    if (call->count >> 48) return "LimitExceeded: more elements than a device holds";
    const Stream *stream = &call->stream;
    if (stream->lane_count == 0) return NULL; /* no stream */
    if (stream->lane_count > UINT32_MAX || stream->length_base > UINT32_MAX ||
        stream->symbol_count / stream->lane_count >= (1u << 30) - GROUP) {
        return "LimitExceeded: longer lanes than a device decodes";
    }
    return NULL;
}

static Failure check_copies(const Kernel *kernel, const Tensor copies[ROLES], Call *call, int *only_symbol) {
    Model model;
    Tiles tiles;
    *only_symbol = -1;
    Failure failure = read_call(kernel->function, copies, kernel->type, call);
    if (!failure) failure = check_size(call);
    if (failure || call->stream.lane_count == 0) return failure;
    failure = make_model(&call->stream, &model);
    if (failure) return failure;
    *only_symbol = model.only_symbol;
    failure = find_tiles(&call->stream, &model, call->function->mode == PARTIAL || !call->function->packed, &tiles);
    free(tiles.begin);
    return failure;
}

/* ---------------------------------------------------------------------------------------------------------------
 * Scales and zero points
 */

/* All numbers from the first axis that they vary along to the last one, those between repeated. */
static Failure repeat(const Broadcast *broadcast, size_t first, size_t last, size_t size, Spread *spread) {
    uint64_t count = 1;
    for (size_t axis = first; axis <= last; axis++) count *= broadcast->size[axis];
    if (count > INT32_MAX) return "LimitExceeded: scales or zero points";
    uint8_t *all = malloc((size_t)(count * size));
    if (!all) return "LimitExceeded: not enough memory";
    for (uint64_t i = 0; i < count; i++) {
        uint64_t rest = i, at = 0;
        for (size_t axis = last + 1; axis-- > first; rest /= broadcast->size[axis]) {
            at += rest % broadcast->size[axis] * broadcast->stride[axis];
        }
        memcpy(all + i * size, (const uint8_t *)broadcast->data + at * size, size);
    }
    Failure failure = allocate(count * size, &spread->own);
    if (!failure) failure = to_device(spread->own, all, count * size);
    free(all);
    spread->data = (const void *)(uintptr_t)spread->own;
    spread->count = (uint32_t)count;
    return failure;
}

static Failure spread_on_device(const Broadcast *broadcast, const void *data, size_t size, Spread *spread) {
    size_t first = 0, last = 0, varying = 0;
    uint64_t inner = 1;
    for (size_t axis = 0; axis < broadcast->rank; axis++) {
        if (!broadcast->stride[axis]) continue;
        if (varying++ == 0) first = axis;
        last = axis;
    }
    *spread = (Spread){data, 0, 1, 1};
    if (!varying) return NULL;
    for (size_t axis = last + 1; axis < broadcast->rank; axis++) inner *= broadcast->size[axis];
    if (inner > INT32_MAX || broadcast->size[last] > INT32_MAX) return "LimitExceeded: scales or zero points";
    spread->inner = (uint32_t)inner;
    spread->count = (uint32_t)broadcast->size[last];
    return first == last ? NULL : repeat(broadcast, first, last, size, spread);
}

/* ---------------------------------------------------------------------------------------------------------------
 * Launches
 */

static int module_of(int type) {
    switch (type) {
    case TYPE_FLOAT: return OF_FLOAT32;
    case TYPE_FLOAT16: return OF_FLOAT16;
    case TYPE_BFLOAT16: return OF_BFLOAT16;
    case TYPE_INT8: return OF_INT8;
    case TYPE_UINT8: return OF_UINT8;
    case TYPE_INT4: return OF_INT4;
    default: return OF_UINT4;
    }
}

static bool is_repeated(const Device *device) { return device->call.function->mode == CONSTANT || device->only; }

/* Whether one launch does mode partial: no group lies in two chunks, and 32 bits count elements. */
static bool is_placed(const Device *device) {
    const Call *call = &device->call;
    return call->function->mode == PARTIAL && call->chunks.chunk % GROUP == 0 && call->count < (uint64_t)1 << 31;
}

static uint64_t element_bytes(int type) {
    if (type == TYPE_FLOAT) return 4;
    return type == TYPE_FLOAT16 || type == TYPE_BFLOAT16 ? 2 : 1;
}

static bool has_halves(const Device *device) {
    return device->call.type == TYPE_INT4 || device->call.type == TYPE_UINT4;
}

static void set_geometry(Device *device) {
    const Stream *stream = &device->call.stream;
    const Gpu *gpu = device->gpu;
    uint64_t tiles = ceil_div(stream->lane_count, WARP), table = (uint64_t)1 << stream->table_log;
    uint64_t side_words = stream->lane_count * (stream->table_log + stream->length_width) / 32;
    uint64_t average = (stream->word_bytes / 4 - side_words) * WARP / stream->lane_count;
    uint64_t most = stream->length_base + ((uint64_t)1 << stream->length_width) - 1; /* words of 32 lanes: bits of one */
    uint64_t stage = (least(most, average + average / 4) + STAGE_SLACK) / 4 * 4;
    uint64_t warps = least(MAX_WARPS, (gpu->shared_bytes / 4 - CLASS_WORDS - table) / stage);
    if (warps < least(FEW_WARPS, tiles)) {
        stage = 0;
        warps = MAX_WARPS;
    }
    uint64_t rounds = ceil_div(tiles, gpu->multiprocessors * warps);
    warps = ceil_div(tiles, gpu->multiprocessors * rounds);
    device->stage_words = (uint32_t)stage;
    device->grid = (Grid){least(gpu->multiprocessors, ceil_div(tiles, warps)), (unsigned)(WARP * warps),
                          4 * (CLASS_WORDS + table + warps * stage)};
}

/* The stream's model, and where lanes begin. */
static Failure launch_model(Device *device, const void *counts, void *queue) {
    const Stream *stream = &device->call.stream;
    uint32_t size = stream->count_size, alphabet = stream->alphabet, log = stream->table_log;
    uint32_t class_bytes = (uint32_t)stream->class_bytes, lanes = (uint32_t)stream->lane_count;
    uint32_t base = (uint32_t)stream->length_base, width = stream->length_width;
    uint64_t words = stream->word_bytes / 4;
    int module = module_of(device->call.type) + (is_placed(device) ? OF_PARTIAL : 0);
    Grid one = {1, SCAN_THREADS, 0}, scan = {ceil_div(lanes, SCAN_LANES), SCAN_THREADS, 0};
    void *of_model[] = {&counts, &size, &alphabet, &log, (void *)&stream->classes, &class_bytes, &device->model,
                        &device->status};
    void *of_positions[] = {(void *)&stream->words, &words, &lanes, &log, &base, &width, &device->block_bits,
                            &device->positions, &device->status};
    Failure failure = launch(device->gpu, module, "tans_model", one, queue, of_model);
    if (!failure) failure = launch(device->gpu, module, "tans_lane_bits", scan, queue, of_positions);
    return failure ? failure : launch(device->gpu, module, "tans_positions", scan, queue, of_positions);
}

static Failure launch_decode(Device *device, int module, bool packed, DevicePointer out, uint64_t count, void *queue) {
    const Stream *stream = &device->call.stream;
    uint64_t words = stream->word_bytes / 4;
    uint32_t lanes = (uint32_t)stream->lane_count, log = stream->table_log;
    Spread *scale = &device->scale, *zero = &device->zero_point;
    char name[64];
    snprintf(name, sizeof name, "tans_decode_%s%s", TYPE_NAMES[module], packed ? "_packed" : "");
    void *arguments[] = {(void *)&stream->words, &words, &lanes, &log, &device->model, (void *)&stream->classes,
                         &device->positions, &device->stage_words, &out, &count, &scale->data, &scale->inner,
                         &scale->count, &zero->data, &zero->inner, &zero->count, &device->status};
    return launch(device->gpu, module, name, device->grid, queue, arguments);
}

/* Mode partial in one launch: warps without a tile write what is raw. */
static Failure launch_partial(Device *device, DevicePointer out, void *queue) {
    const Call *call = &device->call;
    const Stream *stream = &call->stream;
    uint64_t words = stream->word_bytes / 4, count = call->count;
    uint32_t lanes = (uint32_t)stream->lane_count, log = stream->table_log, chunk = (uint32_t)call->chunks.chunk;
    uint32_t per_block = (uint32_t)call->chunks.per_block, coded = (uint32_t)call->chunks.coded;
    Spread *scale = &device->scale, *zero = &device->zero_point;
    Grid grid = device->grid;
    int module = module_of(call->type);
    char name[64];
    snprintf(name, sizeof name, "tans_partial_%s%s", TYPE_NAMES[module], call->function->packed ? "_packed" : "");
    if (grid.blocks * (grid.threads / WARP) >= ceil_div(lanes, WARP)) {
        grid.blocks = device->gpu->multiprocessors;
        grid.threads = (unsigned)(WARP * least(MAX_WARPS, ceil_div(ceil_div(lanes, WARP), grid.blocks) + RAW_WARPS));
    }
    void *arguments[] = {(void *)&stream->words, &words, &lanes, &log, &device->model, (void *)&stream->classes,
                         &device->positions, &device->stage_words, (void *)&call->raw, &chunk, &per_block, &coded,
                         &out, &count, &scale->data, &scale->inner, &scale->count, &zero->data, &zero->inner,
                         &zero->count, &device->status};
    return launch(device->gpu, module + OF_PARTIAL, name, grid, queue, arguments);
}

static Failure launch_values(Device *device, DevicePointer coded, DevicePointer out, void *queue) {
    const Call *call = &device->call;
    Grid grid = {least((uint64_t)VALUE_BLOCKS * device->gpu->multiprocessors,
                       ceil_div(call->unit_count, GROUP * VALUE_THREADS)),
                 VALUE_THREADS, 0};
    const void *raw = device->only ? (const void *)(uintptr_t)device->only : call->raw;
    uint32_t chunk = (uint32_t)call->chunks.chunk, per_block = (uint32_t)call->chunks.per_block;
    uint32_t coded_chunks = (uint32_t)call->chunks.coded, packed = call->function->packed;
    uint32_t repeated = is_repeated(device);
    uint64_t count = call->count;
    Spread *scale = &device->scale, *zero = &device->zero_point;
    int module = module_of(call->type);
    char name[64];
    snprintf(name, sizeof name, "tans_values_%s", TYPE_NAMES[module]);
    void *arguments[] = {&raw, &coded, &chunk, &per_block, &coded_chunks, &packed, &repeated, &out, &count,
                         &scale->data, &scale->inner, &scale->count, &zero->data, &zero->inner, &zero->count,
                         &device->status};
    return launch(device->gpu, module, name, grid, queue, arguments);
}

static Failure launch_elements(Device *device, DevicePointer out, void *queue) {
    const Call *call = &device->call;
    Mode mode = is_repeated(device) ? CONSTANT : call->function->mode;
    if (mode == CODED) {
        return launch_decode(device, module_of(call->type), call->function->packed, out, call->count, queue);
    }
    if (is_placed(device)) return launch_partial(device, out, queue);
    if (mode == PARTIAL) {
        Failure failure = launch_decode(device, OF_SYMBOLS, false, device->units, call->stream.symbol_count, queue);
        return failure ? failure : launch_values(device, device->units, out, queue);
    }
    return launch_values(device, 0, out, queue);
}

static Failure launch_call(Device *device, DevicePointer out, void *queue) {
    if (!has_halves(device)) return launch_elements(device, out, queue);
    Failure failure = launch_elements(device, device->elements, queue);
    if (failure) return failure;
    uint64_t count = device->call.count;
    Grid grid = {least((uint64_t)VALUE_BLOCKS * device->gpu->multiprocessors, ceil_div(count, 2 * VALUE_THREADS)),
                 VALUE_THREADS, 0};
    void *arguments[] = {&device->elements, &out, &count};
    return launch(device->gpu, module_of(device->call.type), "tansor_halves", grid, queue, arguments);
}

/* ---------------------------------------------------------------------------------------------------------------
 * What is kept for a call
 */

static void free_device(Device *device) {
    if (!device) return;
    if (device->gpu && !enter(device->gpu)) {
        DevicePointer all[] = {device->model, device->block_bits, device->positions, device->status, device->units,
                               device->elements, device->only, device->scale.own, device->zero_point.own};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) release(all[i]);
        leave();
    }
    free(device);
}

static Failure allocate_stream(Device *device) {
    const Stream *stream = &device->call.stream;
    Failure failure = allocate(MODEL_BYTES, &device->model);
    if (!failure) failure = allocate(8 * ceil_div(stream->lane_count, SCAN_LANES), &device->block_bits);
    if (!failure) failure = allocate(8 * (stream->lane_count + 1), &device->positions);
    if (!failure && device->call.function->mode == PARTIAL && !is_placed(device)) {
        failure = allocate(stream->symbol_count, &device->units);
    }
    return failure;
}

/* From here on the call's data is the device's. */
static Failure set_inputs(Device *device, const Tensor inputs[ROLES], int only_symbol) {
    Call *call = &device->call;
    const Role raw[] = {[RAW] = call->function->packed ? UNITS : SYMBOLS, [CONSTANT] = SYMBOL, [CODED] = ROLES,
                        [PARTIAL] = RAW_UNITS};
    uint32_t none = 0;
    uint8_t only = (uint8_t)only_symbol;
    Failure failure = spread_on_device(&call->zero_point, inputs[ZERO_POINT].data, 1, &device->zero_point);
    if (!failure && call->function->is_weight) {
        failure = spread_on_device(&call->scale, inputs[SCALE].data, sizeof(float), &device->scale);
    }
    if (!failure) failure = allocate(sizeof none, &device->status);
    if (!failure) failure = to_device(device->status, &none, sizeof none);
    if (!failure && has_halves(device)) failure = allocate(call->count, &device->elements);
    call->raw = raw[call->function->mode] == ROLES ? NULL : inputs[raw[call->function->mode]].data;
    if (failure || call->stream.lane_count == 0) return failure;
    call->stream.words = inputs[STREAM].data;
    call->stream.classes = call->stream.class_bytes ? inputs[CLASSES].data : NULL;
    if (only_symbol < 0 || call->function->mode == PARTIAL) return allocate_stream(device);
    failure = allocate(1, &device->only);
    return failure ? failure : to_device(device->only, &only, 1);
}

static Failure read_status(const Device *device) {
    uint32_t status = 0;
    Failure failure = to_host(&status, (const void *)(uintptr_t)device->status, sizeof status);
    if (failure || !status) return failure;
    return status & 8 ? "Corrupt: a lane does not use exactly its bits" : "Corrupt: the device finds the stream damaged";
}

static Failure start(Device *device, const Tensor inputs[ROLES], int only_symbol) {
    Failure failure = set_inputs(device, inputs, only_symbol);
    if (failure || !device->positions) return failure;
    set_geometry(device);
    return launch_model(device, inputs[COUNTS].data, NULL);
}

static const void *device_memory(const Kernel *kernel, const Tensor inputs[ROLES]) {
    for (size_t i = 0; i < kernel->function->input_count; i++) {
        const Tensor *input = &inputs[kernel->function->inputs[i]];
        if (input->type != TYPE_INT64 && input->bytes) return input->data;
    }
    return NULL;
}

/* All checks but those of lanes, and what is launched once. */
static Failure make_device(const Kernel *kernel, const Tensor inputs[ROLES], Device **made) {
    Tensor copies[ROLES];
    int only_symbol = -1;
    Device *device = *made = calloc(1, sizeof *device);
    if (!device) return "LimitExceeded: not enough memory";
    const void *memory = device_memory(kernel, inputs);
    Failure failure = memory ? find_gpu(memory, &device->gpu) : "Corrupt: no inputs on the device";
    if (!failure) failure = enter(device->gpu);
    if (failure) return failure;
    memset(copies, 0, sizeof copies);
    failure = copy_inputs(kernel, inputs, copies);
    if (!failure) failure = check_stored(kernel, copies);
    if (!failure) failure = check_copies(kernel, copies, &device->call, &only_symbol);
    if (!failure && device->call.count) failure = start(device, inputs, only_symbol);
    free_copies(kernel, copies);
    leave();
    return failure;
}

/* A decoding into memory that is given back: its status is that of all to come. */
static Failure try_decoding(Device *device) {
    DevicePointer out = 0;
    Failure failure = enter(device->gpu);
    if (failure) return failure;
    failure = allocate(device->call.count * element_bytes(device->call.type), &out);
    if (!failure) failure = launch_call(device, out, NULL);
    if (!failure) failure = read_status(device);
    release(out);
    leave();
    return failure;
}

/* ---------------------------------------------------------------------------------------------------------------
 * The kernel
 */

static int code_of(Failure failure) {
    bool is_damage = failure && (!strncmp(failure, "Corrupt", 7) || !strncmp(failure, "Truncated", 9) ||
                                 !strncmp(failure, "LimitExceeded", 13));
    return is_damage ? ORT_INVALID_GRAPH : ORT_EP_FAIL;
}

OrtStatus *create_cuda_kernel(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **made) {
    (void)api;
    Kernel *kernel;
    Tensor inputs[ROLES];
    memset(inputs, 0, sizeof inputs);
    OrtStatus *status = new_kernel((const Operator *)op, info, &kernel);
    if (status) return status;
    status = constant_inputs(kernel, info, inputs, &kernel->is_prepared);
    if (!status && kernel->is_prepared) {
        Failure failure = make_device(kernel, inputs, &kernel->device);
        if (!failure && kernel->device->call.count) failure = try_decoding(kernel->device);
        status = refuse(kernel, code_of(failure), failure);
    }
    if (status) destroy_cuda_kernel(kernel);
    else *made = kernel;
    return status;
}

static OrtStatus *run_on(const Kernel *kernel, Device *device, OrtKernelContext *context, void *queue) {
    void *out = NULL;
    OrtStatus *status = new_output(kernel, context, device->call.type, device->call.shape, device->call.rank, &out);
    if (status || device->call.count == 0) return status;
    Failure failure = enter(device->gpu);
    if (failure) return refuse(kernel, ORT_EP_FAIL, failure);
    failure = launch_call(device, (DevicePointer)(uintptr_t)out, queue);
    leave();
    return refuse(kernel, ORT_EP_FAIL, failure);
}

static Failure wait_for_inputs(const Kernel *kernel, const Tensor inputs[ROLES], void *queue) {
    Gpu *gpu = NULL;
    const void *memory = device_memory(kernel, inputs);
    Failure failure = memory ? find_gpu(memory, &gpu) : "Corrupt: no inputs on the device";
    if (!failure) failure = enter(gpu);
    if (failure) return failure;
    failure = wait_for(queue);
    leave();
    return failure;
}

/* Inputs that may differ in every run: all is checked and derived anew, and waited for. */
static OrtStatus *run_anew(const Kernel *kernel, OrtKernelContext *context, void *queue) {
    Tensor inputs[ROLES];
    Device *device = NULL;
    memset(inputs, 0, sizeof inputs);
    OrtStatus *status = given_inputs(kernel, context, inputs);
    if (status) return status;
    Failure failure = wait_for_inputs(kernel, inputs, queue);
    if (!failure) failure = make_device(kernel, inputs, &device);
    status = refuse(kernel, code_of(failure), failure);
    if (!status) status = run_on(kernel, device, context, NULL);
    if (!status && device->call.count && !enter(device->gpu)) {
        failure = read_status(device);
        leave();
        status = refuse(kernel, code_of(failure), failure);
    }
    free_device(device);
    return status;
}

OrtStatus *compute_on_cuda(void *data, OrtKernelContext *context) {
    const Kernel *kernel = data;
    void *queue = NULL;
    OrtStatus *status = kernel->api->KernelContext_GetGPUComputeStream(context, &queue);
    if (status) return status;
    if (!kernel->is_prepared) return run_anew(kernel, context, queue);
    return run_on(kernel, kernel->device, context, queue);
}

void destroy_cuda_kernel(void *data) {
    Kernel *kernel = data;
    free_device(kernel->device);
    free(kernel);
}

/* ---------------------------------------------------------------------------------------------------------------
 * Without a session: for a loader that decodes weights once, into memory of its own
 */

#if defined(__GNUC__)
#define EXPORTED __attribute__((visibility("default")))
#else
#define EXPORTED
#endif

enum { ALIGNMENT = 256 };

/* Memory on a device, 0 bytes of it none. */
EXPORTED Failure tansor_cuda_allocate(int ordinal, uint64_t bytes, DevicePointer *memory) {
    Gpu *gpu = NULL;
    *memory = 0;
    Failure failure = number_gpu(ordinal, &gpu);
    if (!failure) failure = enter(gpu);
    if (failure) return failure;
    failure = allocate(bytes, memory);
    leave();
    return failure;
}

/* DLPack wants a deleter; whoever has made an array gives its memory back himself. */
EXPORTED void tansor_keep(void *array) { (void)array; }

EXPORTED void tansor_cuda_release(int ordinal, DevicePointer memory) {
    Gpu *gpu = NULL;
    if (number_gpu(ordinal, &gpu) || enter(gpu)) return;
    release(memory);
    leave();
}

/* Copies of the inputs in one piece of the device's memory; 64-bit integers stay where they are. */
static Failure upload(const Kernel *kernel, const Tensor host[ROLES], Tensor inputs[ROLES], DevicePointer *memory) {
    uint64_t bytes = 0;
    memcpy(inputs, host, ROLES * sizeof *inputs);
    for (size_t i = 0; i < kernel->function->input_count; i++) {
        bytes += ceil_div(host[kernel->function->inputs[i]].bytes, ALIGNMENT) * ALIGNMENT;
    }
    Failure failure = allocate(bytes, memory);
    DevicePointer at = *memory;
    for (size_t i = 0; i < kernel->function->input_count && !failure; i++) {
        Tensor *input = &inputs[kernel->function->inputs[i]];
        if (input->type == TYPE_INT64) continue;
        failure = to_device(at, input->data, input->bytes);
        input->data = (const void *)(uintptr_t)at;
        at += ceil_div(input->bytes, ALIGNMENT) * ALIGNMENT;
    }
    return failure;
}

static Failure decode_once(Device *device, const Kernel *kernel, const Tensor host[ROLES], DevicePointer out,
                           uint64_t bytes) {
    Tensor inputs[ROLES];
    DevicePointer memory = 0;
    int only_symbol = -1;
    Failure failure = check_copies(kernel, host, &device->call, &only_symbol);
    if (failure || device->call.count == 0) return failure;
    if (has_halves(device) || device->call.count > bytes / element_bytes(device->call.type)) return "Corrupt: the result is larger than its place";
    failure = upload(kernel, host, inputs, &memory);
    if (!failure) failure = start(device, inputs, only_symbol);
    if (!failure) failure = launch_call(device, out, NULL);
    if (!failure) failure = read_status(device);
    release(memory);
    return failure;
}

/* Decodes a call whose inputs, in the order of its function, lie in the processor's memory, into `bytes` of the
 * device's. All is checked but stored_crc and symbols_crc; nothing is kept. Not for integers of four bits. */
EXPORTED Failure tansor_cuda_decode(int ordinal, const char *name, int64_t type, const Tensor *given, size_t count,
                                    DevicePointer out, uint64_t bytes) {
    Tensor inputs[ROLES];
    Kernel kernel = {.function = find_function(name), .type = type};
    if (!kernel.function || kernel.function->input_count != count) return "Corrupt: no function takes these inputs";
    memset(inputs, 0, sizeof inputs);
    for (size_t i = 0; i < count; i++) inputs[kernel.function->inputs[i]] = given[i];
    Device *device = calloc(1, sizeof *device);
    if (!device) return "LimitExceeded: not enough memory";
    Failure failure = number_gpu(ordinal, &device->gpu);
    if (!failure) failure = enter(device->gpu);
    if (!failure) {
        failure = decode_once(device, &kernel, inputs, out, bytes);
        leave();
    }
    free_device(device);
    return failure;
}
