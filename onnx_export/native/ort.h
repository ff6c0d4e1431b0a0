/*
 * What this library needs of ONNX Runtime's C interface.
 *
 * OrtApi is a table of function pointers to which new versions only append; OrtCustomOp is a struct of callbacks that
 * ONNX Runtime reads as far as its `version` says. Both are declared here as they stand in API version 20.
 */
#ifndef TANSOR_ORT_H
#define TANSOR_ORT_H

#include <stddef.h>
#include <stdint.h>

enum { ORT_API_VERSION = 20 }; /* ONNX Runtime 1.20 and later */

typedef struct OrtStatus OrtStatus; /* null is success */
typedef struct OrtValue OrtValue;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtCustomOp OrtCustomOp;
typedef void (*OrtUnused)(void);

enum { ORT_FAIL = 1, ORT_NOT_IMPLEMENTED = 9, ORT_INVALID_GRAPH = 10, ORT_EP_FAIL = 11 };
enum { ORT_MEMORY_CPU_INPUT = -2, ORT_MEMORY_DEFAULT = 0 };
enum { ORT_REQUIRED = 0, ORT_OPTIONAL = 1 };

/* Element types, as in ONNX. */
enum {
    TYPE_ANY = 0, TYPE_FLOAT = 1, TYPE_UINT8 = 2, TYPE_INT8 = 3, TYPE_UINT16 = 4, TYPE_INT64 = 7, TYPE_FLOAT16 = 10,
    TYPE_BFLOAT16 = 16, TYPE_UINT4 = 21, TYPE_INT4 = 22,
};

typedef struct OrtApi {
    OrtStatus *(*CreateStatus)(int code, const char *message); /* 0 */
    OrtUnused unused_1[25];
    OrtStatus *(*CreateCustomOpDomain)(const char *name, OrtCustomOpDomain **domain); /* 26 */
    OrtStatus *(*CustomOpDomain_Add)(OrtCustomOpDomain *domain, const OrtCustomOp *op);
    OrtStatus *(*AddCustomOpDomain)(OrtSessionOptions *options, OrtCustomOpDomain *domain);
    OrtUnused unused_29[22];
    OrtStatus *(*GetTensorMutableData)(OrtValue *value, void **data); /* 51 */
    OrtUnused unused_52[8];
    OrtStatus *(*GetTensorElementType)(const OrtTensorTypeAndShapeInfo *info, int *type); /* 60 */
    OrtStatus *(*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo *info, size_t *count);
    OrtStatus *(*GetDimensions)(const OrtTensorTypeAndShapeInfo *info, int64_t *dimensions, size_t count);
    OrtUnused unused_63[2];
    OrtStatus *(*GetTensorTypeAndShape)(const OrtValue *value, OrtTensorTypeAndShapeInfo **info); /* 65 */
    OrtUnused unused_66[20];
    OrtStatus *(*KernelInfoGetAttribute_int64)(const OrtKernelInfo *info, const char *name, int64_t *value); /* 86 */
    OrtUnused unused_87;
    OrtStatus *(*KernelContext_GetInputCount)(const OrtKernelContext *context, size_t *count); /* 88 */
    OrtUnused unused_89;
    OrtStatus *(*KernelContext_GetInput)(const OrtKernelContext *context, size_t index, const OrtValue **value); /* 90 */
    OrtStatus *(*KernelContext_GetOutput)(OrtKernelContext *context, size_t index, const int64_t *dimensions,
                                          size_t rank, OrtValue **value);
    OrtUnused unused_92;
    void (*ReleaseStatus)(OrtStatus *status); /* 93 */
    OrtUnused unused_94[5];
    void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo *info); /* 99 */
    OrtUnused unused_100[93];
    OrtStatus *(*KernelContext_GetGPUComputeStream)(const OrtKernelContext *context, void **stream); /* 193 */
    OrtUnused unused_194[50];
    OrtStatus *(*KernelInfo_GetNodeName)(const OrtKernelInfo *info, char *name, size_t *size); /* 244 */
    OrtUnused unused_245[4];
    OrtStatus *(*KernelInfoGetConstantInput_tensor)(const OrtKernelInfo *info, size_t index, int *is_constant,
                                                    const OrtValue **value); /* 249 */
    OrtUnused unused_250[24];
    OrtStatus *(*KernelContext_ParallelFor)(const OrtKernelContext *context, void (*task)(void *data, size_t index),
                                            size_t total, size_t batches, void *data); /* 274 */
} OrtApi;

#define ORT_SLOT(function, slot)                                                                                       \
    _Static_assert(offsetof(OrtApi, function) == (slot) * sizeof(OrtUnused), "place of " #function)
ORT_SLOT(CreateCustomOpDomain, 26);
ORT_SLOT(GetTensorMutableData, 51);
ORT_SLOT(GetTensorElementType, 60);
ORT_SLOT(GetTensorTypeAndShape, 65);
ORT_SLOT(KernelInfoGetAttribute_int64, 86);
ORT_SLOT(KernelContext_GetInputCount, 88);
ORT_SLOT(KernelContext_GetInput, 90);
ORT_SLOT(ReleaseStatus, 93);
ORT_SLOT(ReleaseTensorTypeAndShapeInfo, 99);
ORT_SLOT(KernelContext_GetGPUComputeStream, 193);
ORT_SLOT(KernelInfo_GetNodeName, 244);
ORT_SLOT(KernelInfoGetConstantInput_tensor, 249);
ORT_SLOT(KernelContext_ParallelFor, 274);

typedef struct OrtApiBase {
    const OrtApi *(*GetApi)(uint32_t version); /* null if this runtime is older than the version */
    const char *(*GetVersionString)(void);
} OrtApiBase;

struct OrtCustomOp {
    uint32_t version;
    OrtUnused CreateKernel; /* CreateKernelV2 and KernelComputeV2, which can fail, are used */
    const char *(*GetName)(const OrtCustomOp *op);
    const char *(*GetExecutionProviderType)(const OrtCustomOp *op);
    int (*GetInputType)(const OrtCustomOp *op, size_t index);
    size_t (*GetInputTypeCount)(const OrtCustomOp *op);
    int (*GetOutputType)(const OrtCustomOp *op, size_t index);
    size_t (*GetOutputTypeCount)(const OrtCustomOp *op);
    OrtUnused KernelCompute;
    void (*KernelDestroy)(void *kernel);
    int (*GetInputCharacteristic)(const OrtCustomOp *op, size_t index);
    int (*GetOutputCharacteristic)(const OrtCustomOp *op, size_t index);
    int (*GetInputMemoryType)(const OrtCustomOp *op, size_t index);
    OrtUnused variadic[4];
    OrtStatus *(*CreateKernelV2)(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel);
    OrtStatus *(*KernelComputeV2)(void *kernel, OrtKernelContext *context);
    OrtUnused InferOutputShapeFn;
    int (*GetStartVersion)(const OrtCustomOp *op);
    int (*GetEndVersion)(const OrtCustomOp *op);
    OrtUnused in_place[4];
};
_Static_assert(sizeof(void *) == 4 || sizeof(OrtCustomOp) == 208, "size of OrtCustomOp");

#endif
