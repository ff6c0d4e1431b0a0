/* What ONNX Runtime gives a kernel: attributes, inputs, memory for the result. */
#include "kernel.h"

#include <stdio.h>
#include <stdlib.h>

OrtStatus *refuse(const Kernel *kernel, int code, Failure failure) {
    char message[512];
    if (!failure) return NULL;
    snprintf(message, sizeof message, "ai.tansor %s %s: %s", kernel->function->name, kernel->name, failure);
    return kernel->api->CreateStatus(code, message);
}

/* ---------------------------------------------------------------------------------------------------------------
 * Attributes
 */

static Failure read_attribute(const Kernel *kernel, const OrtKernelInfo *info, const char *name, int64_t *value) {
    OrtStatus *status = kernel->api->KernelInfoGetAttribute_int64(info, name, value);
    if (!status) return NULL;
    kernel->api->ReleaseStatus(status);
    return "Corrupt: an attribute is missing";
}

static Failure read_attributes(Kernel *kernel, const OrtKernelInfo *info) {
    int64_t stored_crc, symbols_crc;
    Failure failure = read_attribute(kernel, info, "to", &kernel->type);
    if (!failure) failure = read_attribute(kernel, info, "stored_crc", &stored_crc);
    if (!failure) failure = read_attribute(kernel, info, "symbols_crc", &symbols_crc);
    if (failure) return failure;
    if (stored_crc < 0 || stored_crc > UINT32_MAX) return "Corrupt: stored_crc is no checksum";
    kernel->stored_crc = (uint32_t)stored_crc;
    return NULL;
}

static void read_name(Kernel *kernel, const OrtKernelInfo *info) {
    size_t size = sizeof kernel->name;
    OrtStatus *status = kernel->api->KernelInfo_GetNodeName(info, kernel->name, &size);
    if (!status) return;
    kernel->api->ReleaseStatus(status); /* a longer name than fits */
    kernel->name[0] = 0;
}

OrtStatus *new_named_kernel(const Operator *operator, const OrtKernelInfo *info, Kernel **kernel) {
    *kernel = calloc(1, sizeof **kernel);
    if (!*kernel) return operator->api->CreateStatus(ORT_FAIL, "ai.tansor: not enough memory for a kernel");
    (*kernel)->function = operator->function;
    (*kernel)->api = operator->api;
    read_name(*kernel, info);
    return NULL;
}

OrtStatus *new_kernel(const Operator *operator, const OrtKernelInfo *info, Kernel **kernel) {
    OrtStatus *status = new_named_kernel(operator, info, kernel);
    if (status) return status;
    (*kernel)->gives_symbols = operator->function->is_weight && operator->result_type == TYPE_UINT8;
    status = refuse(*kernel, ORT_INVALID_GRAPH, read_attributes(*kernel, info));
    if (status) free(*kernel);
    return status;
}

/* ---------------------------------------------------------------------------------------------------------------
 * Tensors
 */

static uint64_t bytes_of(int type, uint64_t count) {
    switch (type) {
    case TYPE_FLOAT: return 4 * count;
    case TYPE_INT64: return 8 * count;
    case TYPE_UINT16: case TYPE_FLOAT16: case TYPE_BFLOAT16: return 2 * count;
    case TYPE_INT4: case TYPE_UINT4: return ceil_div(count, 2);
    default: return count;
    }
}

static OrtStatus *read_shape(const OrtApi *api, const OrtTensorTypeAndShapeInfo *info, Tensor *tensor) {
    OrtStatus *status = api->GetTensorElementType(info, &tensor->type);
    if (!status) status = api->GetDimensionsCount(info, &tensor->rank);
    if (status) return status;
    if (tensor->rank > MAX_RANK) return api->CreateStatus(ORT_INVALID_GRAPH, "ai.tansor: more than 64 dimensions");
    status = api->GetDimensions(info, tensor->shape, tensor->rank);
    tensor->count = 1; /* the tensor is there: its size fits */
    for (size_t axis = 0; axis < tensor->rank; axis++) tensor->count *= (uint64_t)tensor->shape[axis];
    tensor->bytes = bytes_of(tensor->type, tensor->count);
    return status;
}

static OrtStatus *read_tensor(const OrtApi *api, const OrtValue *value, Tensor *tensor) {
    OrtTensorTypeAndShapeInfo *info = NULL;
    OrtStatus *status = api->GetTensorTypeAndShape(value, &info);
    if (status) return status;
    status = read_shape(api, info, tensor);
    api->ReleaseTensorTypeAndShapeInfo(info);
    if (status) return status;
    void *data = NULL;
    status = api->GetTensorMutableData((OrtValue *)value, &data);
    tensor->data = data;
    return status;
}

OrtStatus *constant_inputs(const Kernel *kernel, const OrtKernelInfo *info, Tensor inputs[ROLES], bool *all_constant) {
    const OrtValue *values[MAX_INPUTS];
    OrtStatus *status = NULL;
    *all_constant = false;
    for (size_t i = 0; i < kernel->function->input_count; i++) {
        int is_constant = 0;
        status = kernel->api->KernelInfoGetConstantInput_tensor(info, i, &is_constant, &values[i]);
        if (status || !is_constant) return status;
    }
    *all_constant = true;
    for (size_t i = 0; i < kernel->function->input_count && !status; i++) {
        status = read_tensor(kernel->api, values[i], &inputs[kernel->function->inputs[i]]);
    }
    return status;
}

OrtStatus *given_inputs(const Kernel *kernel, const OrtKernelContext *context, Tensor inputs[ROLES]) {
    size_t count = 0;
    OrtStatus *status = kernel->api->KernelContext_GetInputCount(context, &count);
    count = (size_t)least(count, kernel->function->input_count); /* the last one may be left out */
    for (size_t i = 0; i < count && !status; i++) {
        const OrtValue *value = NULL;
        status = kernel->api->KernelContext_GetInput(context, i, &value);
        if (!status && !value) return refuse(kernel, ORT_INVALID_GRAPH, "Corrupt: an input is missing");
        if (!status) status = read_tensor(kernel->api, value, &inputs[kernel->function->inputs[i]]);
    }
    return status;
}

OrtStatus *new_output(const Kernel *kernel, OrtKernelContext *context, int type, const int64_t *shape, size_t rank,
                      void **out) {
    OrtValue *value = NULL;
    Tensor tensor;
    OrtStatus *status = kernel->api->KernelContext_GetOutput(context, 0, shape, rank, &value);
    if (!status && !value) return refuse(kernel, ORT_INVALID_GRAPH, "Corrupt: the call has no output");
    if (!status) status = read_tensor(kernel->api, value, &tensor);
    if (status) return status;
    if (tensor.type != type) return refuse(kernel, ORT_INVALID_GRAPH, "Corrupt: the graph declares another type");
    *out = (void *)tensor.data;
    return NULL;
}

Failure check_stored(const Kernel *kernel, const Tensor inputs[ROLES]) {
    uint32_t crc = 0;
    for (size_t i = 0; i < kernel->function->input_count; i++) {
        const Tensor *input = &inputs[kernel->function->inputs[i]];
        crc = crc32_of(crc, input->data, input->bytes);
    }
    return crc == kernel->stored_crc ? NULL : "Corrupt: stored_crc is wrong";
}
