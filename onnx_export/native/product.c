/* The kernel of X W + C on processors: blocks of Y in ONNX Runtime's own threads. */
#include <stdlib.h>

#include "kernel.h"

const Function product_function = {"MatMul", RAW, false, false, false, 5, {FACTOR, SYMBOLS, SCALE, ZERO_POINT, BIAS}};

typedef struct {
    const Product *product;
    const Decoder *decoder;
    uint64_t column_blocks, rows; /* of a task */
} Work;

/* A part of W becomes floats once for all rows of a task, if it is as one block: then more rows are worth it. */
static uint64_t rows_together(const Product *product) {
    return product->depth <= BLOCK_DEPTH ? 4 * BLOCK_ROWS : BLOCK_ROWS;
}

/* Neighbouring tasks read the same rows of X. */
static void run_block(void *data, size_t index) {
    const Work *work = data;
    uint64_t first = index / work->column_blocks * work->rows;
    uint64_t last = least(first + work->rows, work->product->rows);
    work->decoder->multiply(work->product, first, last, index % work->column_blocks * BLOCK_COLUMNS);
}

/* ---------------------------------------------------------------------------------------------------------------
 * Inputs
 */

/* How a scale or zero point is spread over W, which lies as `shape` says. */
static Failure read_strides(const Tensor *numbers, const int64_t shape[2], bool is_turned, Strides *strides) {
    uint64_t own[2] = {1, 1};
    if (numbers->rank > 2) return "Corrupt: a scale or zero point does not fit the shape";
    for (size_t axis = 0; axis < numbers->rank; axis++) {
        size_t to = axis + 2 - numbers->rank;
        int64_t size = numbers->shape[axis];
        if (size != 1 && size != shape[to]) return "Corrupt: a scale or zero point does not fit the shape";
        own[to] = (uint64_t)size;
    }
    uint64_t outer = own[0] == 1 ? 0 : own[1], inner = own[1] != 1;
    *strides = is_turned ? (Strides){numbers->data, inner, outer} : (Strides){numbers->data, outer, inner};
    return NULL;
}

static Failure read_product(const Tensor inputs[ROLES], bool is_turned, Product *product) {
    const Tensor *x = &inputs[FACTOR], *w = &inputs[SYMBOLS], *bias = &inputs[BIAS];
    if (x->type != TYPE_FLOAT || w->type != TYPE_UINT8 || inputs[SCALE].type != TYPE_FLOAT ||
        inputs[ZERO_POINT].type != TYPE_UINT8 || (bias->data && bias->type != TYPE_FLOAT)) {
        return "Corrupt: an input has another type";
    }
    if (x->rank < 1 || w->rank != 2) return "Corrupt: factors of another rank";
    if (x->shape[x->rank - 1] != w->shape[is_turned]) return "Corrupt: factors do not fit each other";
    *product = (Product){
        .x = x->data, .symbols = w->data, .bias = bias->data, .rows = 1, .depth = (uint64_t)w->shape[is_turned],
        .columns = (uint64_t)w->shape[!is_turned], .is_turned = is_turned,
    };
    for (size_t axis = 0; axis + 1 < x->rank; axis++) product->rows *= (uint64_t)x->shape[axis];
    if (bias->data && (bias->rank != 1 || bias->count != product->columns)) return "Corrupt: a bias of another shape";
    Failure failure = read_strides(&inputs[SCALE], w->shape, is_turned, &product->scale);
    return failure ? failure : read_strides(&inputs[ZERO_POINT], w->shape, is_turned, &product->zero_point);
}

/* ---------------------------------------------------------------------------------------------------------------
 * The kernel
 */

OrtStatus *create_product(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **made) {
    Kernel *kernel;
    OrtStatus *status = new_named_kernel((const Operator *)op, info, &kernel);
    if (status) return status;
    status = api->KernelInfoGetAttribute_int64(info, "transB", &kernel->type);
    if (status) free(kernel);
    else *made = kernel;
    return status;
}

OrtStatus *compute_product(void *data, OrtKernelContext *context) {
    const Kernel *kernel = data;
    Tensor inputs[ROLES];
    Product product;
    int64_t shape[MAX_RANK];
    void *y = NULL;
    memset(inputs, 0, sizeof inputs);
    OrtStatus *status = given_inputs(kernel, context, inputs);
    if (!status) status = refuse(kernel, ORT_INVALID_GRAPH, read_product(inputs, kernel->type != 0, &product));
    if (status) return status;
    size_t rank = inputs[FACTOR].rank;
    memcpy(shape, inputs[FACTOR].shape, sizeof shape);
    shape[rank - 1] = (int64_t)product.columns;
    status = new_output(kernel, context, TYPE_FLOAT, shape, rank, &y);
    product.y = y;
    Work work = {&product, choose_decoder(), ceil_div(product.columns, BLOCK_COLUMNS), rows_together(&product)};
    uint64_t blocks = work.column_blocks * ceil_div(product.rows, work.rows);
    if (status || blocks == 0) return status;
    return kernel->api->KernelContext_ParallelFor(context, run_block, blocks, 0, &work);
}
