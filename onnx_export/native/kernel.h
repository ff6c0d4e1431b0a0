/* A kernel as ONNX Runtime makes it: one for each node of the graph. */
#ifndef TANSOR_KERNEL_H
#define TANSOR_KERNEL_H

#include "tansor.h"

typedef struct Device Device; /* cuda.c */

/* One of the operators that are registered: a function on a provider, for one type of counts and some results. */
typedef struct {
    OrtCustomOp callbacks; /* first, so that a pointer to it is one to the operator */
    const Function *function;
    const OrtApi *api;
    int counts_type, result_type;
} Operator;

typedef struct {
    const Function *function;
    const OrtApi *api;
    char name[128]; /* of the node */
    int64_t type;
    bool gives_symbols; /* instead of values: what products read */
    uint32_t stored_crc;
    /* What was checked and derived once, if all inputs are constant. */
    bool is_prepared;
    const void *prepared_words;
    Model model;
    Tiles tiles;
    Device *device;
} Kernel;

/* The function of a name; null if there is none. */
const Function *find_function(const char *name);

/* X W + C, W as symbols, for the sessions of this library alone: no file calls it. */
extern const Function product_function;

/* What is wrong as a status that names the node; null for null. */
OrtStatus *refuse(const Kernel *kernel, int code, Failure failure);

/* A kernel with its name, and one with a call's attributes too. */
OrtStatus *new_named_kernel(const Operator *operator, const OrtKernelInfo *info, Kernel **kernel);
OrtStatus *new_kernel(const Operator *operator, const OrtKernelInfo *info, Kernel **kernel);

/* Inputs by role. `all_constant` says whether there are constants for all; then, and only then, inputs are read. */
OrtStatus *constant_inputs(const Kernel *kernel, const OrtKernelInfo *info, Tensor inputs[ROLES], bool *all_constant);
OrtStatus *given_inputs(const Kernel *kernel, const OrtKernelContext *context, Tensor inputs[ROLES]);

/* Memory for the result, which the graph must declare to be of this type. */
OrtStatus *new_output(const Kernel *kernel, OrtKernelContext *context, int type, const int64_t *shape, size_t rank,
                      void **out);

/* Whether stored_crc is that of the inputs, which must lie in the processor's memory. */
Failure check_stored(const Kernel *kernel, const Tensor inputs[ROLES]);

OrtStatus *create_cpu_kernel(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel);
OrtStatus *compute_on_cpu(void *kernel, OrtKernelContext *context);
void destroy_cpu_kernel(void *kernel);

OrtStatus *create_product(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel);
OrtStatus *compute_product(void *kernel, OrtKernelContext *context);

OrtStatus *create_cuda_kernel(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel);
OrtStatus *compute_on_cuda(void *kernel, OrtKernelContext *context);
void destroy_cuda_kernel(void *kernel);

#endif
