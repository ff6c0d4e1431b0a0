/* The kernel for processors: tiles of lanes in ONNX Runtime's own threads. */
#include <stdatomic.h>
#include <stdlib.h>

#include "kernel.h"

enum { TASK_UNITS = 1 << 16 };   /* fewer are not worth a task */
enum { FETCHED_BYTES = 1 << 17 }; /* of a tile's bits: more would push each other out */
enum { CACHED_BYTES = 1 << 24 }; /* a smaller weight may still be in a cache when it is read */

typedef struct {
    Job job;
    const Decoder *decoder;
    uint64_t total, each; /* things to do, and how many a task does */
    atomic_bool is_damaged;
} Work;

/* ---------------------------------------------------------------------------------------------------------------
 * What tasks do, for the things from `first` to `last` - 1
 */

/* All of it at once: the loads of a decoder wait for each other. Inlined always, as in tile.h. */
__attribute__((always_inline)) static inline void fetch(const void *data, uint64_t bytes) {
    for (uint64_t at = 0; at < bytes; at += LINE) __builtin_prefetch((const uint8_t *)data + at, 0, 2);
}

static bool decode_tiles(const Work *work, uint64_t first, uint64_t last) {
    const Job *job = &work->job;
    uint64_t begin = job->tiles->begin[first] / 8, end = job->tiles->begin[first + 1] / 8;
    fetch(job->model->table, sizeof *job->model->table << job->call->stream.table_log);
    fetch(job->call->stream.words + begin, least(end - begin, FETCHED_BYTES)); /* later tiles: see decode_lanes */
    for (uint64_t tile = first; tile < last; tile++) {
        if (!work->decoder->decode_tile(&work->job, tile)) return false;
    }
    return true;
}

static bool copy_units(const Work *work, uint64_t first, uint64_t last) {
    return work->decoder->write_placed(&work->job, first, work->job.call->raw + first, last - first);
}

static bool copy_chunks(const Work *work, uint64_t first, uint64_t last) {
    const Chunks *cut = &work->job.call->chunks;
    uint64_t raw = cut->chunk * (cut->per_block - cut->coded), whole = cut->chunk * cut->per_block;
    bool in_range = true;
    for (uint64_t block = first; block < last; block++) {
        in_range &= work->decoder->write_placed(&work->job, block * whole, work->job.call->raw + block * raw, raw);
    }
    return in_range;
}

static bool repeat_unit(const Work *work, uint64_t first, uint64_t last) {
    const Call *call = work->job.call;
    uint8_t row[ROW];
    bool in_range = true;
    memset(row, call->function->mode == CONSTANT ? call->raw[0] : work->job.model->only_symbol, sizeof row);
    for (; first < last; first += ROW) {
        in_range &= work->decoder->write_coded(&work->job, first, row, least(ROW, last - first));
    }
    return in_range;
}

/* ---------------------------------------------------------------------------------------------------------------
 * Tasks
 */

typedef struct {
    Work *work;
    bool (*todo)(const Work *work, uint64_t first, uint64_t last);
} Task;

static void run_task(void *data, size_t index) {
    const Task *task = data;
    Work *work = task->work;
    uint64_t first = index * work->each;
    if (!task->todo(work, first, least(first + work->each, work->total))) atomic_store(&work->is_damaged, true);
    work->decoder->settle();
}

/* All things from 0 to `total` - 1, each of so many units. */
static OrtStatus *run_tasks(const Kernel *kernel, OrtKernelContext *context, Work *work, uint64_t total,
                            uint64_t units_each, bool (*todo)(const Work *, uint64_t, uint64_t)) {
    const Call *call = work->job.call;
    bool halves_meet = (call->type == TYPE_INT4 || call->type == TYPE_UINT4) && call->function->mode == PARTIAL &&
                       !call->function->packed; /* chunks may end in the middle of a byte */
    work->total = total;
    work->each = halves_meet ? total : ceil_div(TASK_UNITS, units_each ? units_each : 1);
    Task task = {work, todo};
    if (total == 0) return NULL;
    if (work->each >= total) {
        work->each = total;
        run_task(&task, 0);
        return NULL;
    }
    return kernel->api->KernelContext_ParallelFor(context, run_task, ceil_div(total, work->each), 0, &task);
}

static OrtStatus *run_stream(const Kernel *kernel, OrtKernelContext *context, Work *work) {
    const Stream *stream = &work->job.call->stream;
    if (work->job.model->only_symbol >= 0) {
        return run_tasks(kernel, context, work, stream->symbol_count, 1, repeat_unit);
    }
    return run_tasks(kernel, context, work, work->job.tiles->count, stream->symbol_count / work->job.tiles->count,
                     decode_tiles);
}

static OrtStatus *run_chunks(const Kernel *kernel, OrtKernelContext *context, Work *work) {
    const Call *call = work->job.call;
    uint64_t raw = call->chunks.chunk * (call->chunks.per_block - call->chunks.coded);
    OrtStatus *status = run_tasks(kernel, context, work, call->raw_count / raw, raw, copy_chunks);
    return status ? status : run_stream(kernel, context, work);
}

static OrtStatus *run_work(const Kernel *kernel, OrtKernelContext *context, Work *work) {
    const Call *call = work->job.call;
    switch (call->function->mode) {
    case RAW: return run_tasks(kernel, context, work, call->unit_count, 1, copy_units);
    case CONSTANT: return run_tasks(kernel, context, work, call->count, 1, repeat_unit);
    case CODED: return run_stream(kernel, context, work);
    case PARTIAL: break;
    }
    return run_chunks(kernel, context, work);
}

static OrtStatus *decode(const Kernel *kernel, OrtKernelContext *context, const Call *call, const Model *model,
                         const Tiles *tiles) {
    bool past_caches = size_of(call) > 1 && call->count >= CACHED_BYTES / size_of(call);
    Work work = {.job = {call, model, tiles, NULL, past_caches}, .decoder = choose_decoder()};
    OrtStatus *status = new_output(kernel, context, call->type, call->shape, call->rank, &work.job.out);
    if (status || call->count == 0) return status;
    if (call->type == TYPE_INT4 || call->type == TYPE_UINT4) { /* the half byte that may be left over */
        ((uint8_t *)work.job.out)[(call->count - 1) / 2] = 0;
    }
    status = run_work(kernel, context, &work);
    if (status || !atomic_load(&work.is_damaged)) return status;
    return refuse(kernel, ORT_INVALID_GRAPH, "Corrupt: a lane does not use exactly its bits, or a value is out of range");
}

/* ---------------------------------------------------------------------------------------------------------------
 * The kernel
 */

static Failure read_own_call(const Kernel *kernel, const Tensor inputs[ROLES], Call *call) {
    Failure failure = read_call(kernel->function, inputs, kernel->type, call);
    if (kernel->gives_symbols) call->type = TYPE_UINT8;
    return failure;
}

/* All checks, and what is derived from a stream. */
static Failure prepare(const Kernel *kernel, const Tensor inputs[ROLES], Call *call, Model *model, Tiles *tiles) {
    const Function *function = kernel->function;
    tiles->begin = NULL;
    Failure failure = check_stored(kernel, inputs);
    if (!failure) failure = read_own_call(kernel, inputs, call);
    if (failure || function->mode == RAW || function->mode == CONSTANT) return failure;
    failure = make_model(&call->stream, model);
    if (failure) return failure;
    return find_tiles(&call->stream, model, function->mode == PARTIAL || !function->packed, tiles);
}

OrtStatus *create_cpu_kernel(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **made) {
    (void)api;
    Kernel *kernel;
    Tensor inputs[ROLES];
    Call call;
    memset(inputs, 0, sizeof inputs);
    OrtStatus *status = new_kernel((const Operator *)op, info, &kernel);
    if (status) return status;
    status = constant_inputs(kernel, info, inputs, &kernel->is_prepared);
    if (!status && kernel->is_prepared) {
        status = refuse(kernel, ORT_INVALID_GRAPH, prepare(kernel, inputs, &call, &kernel->model, &kernel->tiles));
        kernel->prepared_words = inputs[STREAM].data;
    }
    if (status) destroy_cpu_kernel(kernel);
    else *made = kernel;
    return status;
}

static OrtStatus *compute_anew(const Kernel *kernel, OrtKernelContext *context, const Tensor inputs[ROLES]) {
    Call call;
    Model model;
    Tiles tiles;
    OrtStatus *status = refuse(kernel, ORT_INVALID_GRAPH, prepare(kernel, inputs, &call, &model, &tiles));
    if (!status) status = decode(kernel, context, &call, &model, &tiles);
    free(tiles.begin);
    return status;
}

OrtStatus *compute_on_cpu(void *data, OrtKernelContext *context) {
    const Kernel *kernel = data;
    Tensor inputs[ROLES];
    Call call;
    memset(inputs, 0, sizeof inputs);
    OrtStatus *status = given_inputs(kernel, context, inputs);
    if (status) return status;
    if (!kernel->is_prepared || kernel->prepared_words != inputs[STREAM].data) {
        return compute_anew(kernel, context, inputs);
    }
    status = refuse(kernel, ORT_INVALID_GRAPH, read_own_call(kernel, inputs, &call));
    return status ? status : decode(kernel, context, &call, &kernel->model, &kernel->tiles);
}

void destroy_cpu_kernel(void *data) {
    Kernel *kernel = data;
    free(kernel->tiles.begin);
    free(kernel);
}
