/* Registration: each function of the domain as an operator on each provider. */
#include <stdlib.h>

#include "kernel.h"

#define STREAM_INPUTS STREAM, COUNTS, LAYOUT
#define CODED_FUNCTIONS(classes, packed, has_classes, is_packed, extra, extra_count)                                   \
    {"Decompress" classes packed "Linear", CODED, true, has_classes, is_packed, 5 + extra_count,                       \
     {STREAM_INPUTS extra, SCALE, ZERO_POINT}},                                                                        \
    {"Decompress" classes packed "Integer", CODED, false, has_classes, is_packed, 4 + extra_count,                     \
     {STREAM_INPUTS extra, ZERO_POINT}},                                                                               \
    {"Decompress" classes packed "PartialLinear", PARTIAL, true, has_classes, is_packed, 7 + extra_count,              \
     {STREAM_INPUTS extra, RAW_UNITS, CHUNKS, SCALE, ZERO_POINT}},                                                     \
    {"Decompress" classes packed "PartialInteger", PARTIAL, false, has_classes, is_packed, 6 + extra_count,            \
     {STREAM_INPUTS extra, RAW_UNITS, CHUNKS, ZERO_POINT}}
#define NOTHING
#define THEN_CLASSES , CLASSES

static const Function FUNCTIONS[] = {
    CODED_FUNCTIONS("", "", false, false, NOTHING, 0),
    CODED_FUNCTIONS("", "Packed", false, true, NOTHING, 0),
    CODED_FUNCTIONS("Classes", "", true, false, THEN_CLASSES, 1),
    CODED_FUNCTIONS("Classes", "Packed", true, true, THEN_CLASSES, 1),
    {"RawLinear", RAW, true, false, false, 3, {SYMBOLS, SCALE, ZERO_POINT}},
    {"RawPackedLinear", RAW, true, false, true, 4, {UNITS, SHAPE, SCALE, ZERO_POINT}},
    {"ConstantLinear", CONSTANT, true, false, false, 4, {SYMBOL, SHAPE, SCALE, ZERO_POINT}},
};
enum { FUNCTION_COUNT = sizeof FUNCTIONS / sizeof *FUNCTIONS };

const Function *find_function(const char *name) {
    for (size_t i = 0; i < FUNCTION_COUNT; i++) {
        if (!strcmp(FUNCTIONS[i].name, name)) return &FUNCTIONS[i];
    }
    return NULL;
}

/* ---------------------------------------------------------------------------------------------------------------
 * What ONNX Runtime asks an operator
 */

static const Function *function_of(const OrtCustomOp *op) { return ((const Operator *)op)->function; }
static Role role_of(const OrtCustomOp *op, size_t index) { return function_of(op)->inputs[index]; }

static const char *get_name(const OrtCustomOp *op) { return function_of(op)->name; }
static size_t get_input_count(const OrtCustomOp *op) { return function_of(op)->input_count; }
static size_t get_output_count(const OrtCustomOp *op) { return (void)op, 1; }
static int get_version(const OrtCustomOp *op) { return (void)op, 1; }
static int get_output_type(const OrtCustomOp *op, size_t index) {
    return (void)index, ((const Operator *)op)->result_type;
}
static const char *on_cpu(const OrtCustomOp *op) { return (void)op, "CPUExecutionProvider"; }
static const char *on_cuda(const OrtCustomOp *op) { return (void)op, "CUDAExecutionProvider"; }

static int get_input_type(const OrtCustomOp *op, size_t index) {
    switch (role_of(op, index)) {
    case STREAM: return TYPE_UINT16;
    case COUNTS: return ((const Operator *)op)->counts_type;
    case LAYOUT: case CHUNKS: case SHAPE: return TYPE_INT64;
    case SCALE: case FACTOR: case BIAS: return TYPE_FLOAT;
    default: return TYPE_UINT8;
    }
}

static int get_input_option(const OrtCustomOp *op, size_t index) {
    return role_of(op, index) == BIAS ? ORT_OPTIONAL : ORT_REQUIRED;
}

/* An output of any type may not be required: ONNX Runtime would look for its type at an input of any type. As an
 * optional one it has the type that the graph declares. */
static int get_output_option(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, ORT_OPTIONAL; }

/* Numbers that the processor needs in order to launch anything lie in its memory. */
static int get_input_memory(const OrtCustomOp *op, size_t index) {
    return get_input_type(op, index) == TYPE_INT64 ? ORT_MEMORY_CPU_INPUT : ORT_MEMORY_DEFAULT;
}

/* ---------------------------------------------------------------------------------------------------------------
 * Operators
 */

static Operator make_operator(const OrtApi *api, const Function *function, int counts_type, int result_type,
                              bool is_cuda) {
    return (Operator){
        .callbacks = {
            .version = ORT_API_VERSION, .GetName = get_name, .GetExecutionProviderType = is_cuda ? on_cuda : on_cpu,
            .GetInputType = get_input_type, .GetInputTypeCount = get_input_count, .GetOutputType = get_output_type,
            .GetOutputTypeCount = get_output_count, .KernelDestroy = is_cuda ? destroy_cuda_kernel : destroy_cpu_kernel,
            .GetInputCharacteristic = get_input_option, .GetOutputCharacteristic = get_output_option,
            .GetInputMemoryType = get_input_memory,
            .CreateKernelV2 = is_cuda ? create_cuda_kernel : create_cpu_kernel,
            .KernelComputeV2 = is_cuda ? compute_on_cuda : compute_on_cpu,
            .GetStartVersion = get_version, .GetEndVersion = get_version,
        },
        .function = function, .api = api, .counts_type = counts_type, .result_type = result_type,
    };
}

/* ONNX Runtime's "any type" knows no 4-bit integers: these are operators of their own. Those of any type come first:
 * the first one that fits its inputs says what is known of a call's type. */
static const int RESULTS[] = {TYPE_ANY, TYPE_INT4, TYPE_UINT4};
static const int COUNTS_TYPES[] = {TYPE_UINT8, TYPE_UINT16};
enum { MAX_OPERATORS = FUNCTION_COUNT * 2 * 2 * 3, MAX_SYMBOL_OPERATORS = FUNCTION_COUNT * 2 + 1 };

static bool has_stream(const Function *function) { return function->mode == CODED || function->mode == PARTIAL; }

static OrtStatus *add_operators(const OrtApi *api, OrtCustomOpDomain *domain, Operator *operators) {
    size_t made = 0;
    for (int result = 0; result < 3; result++) {
        for (size_t i = 0; i < 4 * FUNCTION_COUNT; i++) { /* both types of counts, both providers */
            const Function *function = &FUNCTIONS[i / 4];
            if ((function->is_weight && result) || (!has_stream(function) && i % 2)) continue;
            Operator *operator= &operators[made++];
            *operator= make_operator(api, function, COUNTS_TYPES[i % 2], RESULTS[result], i / 2 % 2);
            OrtStatus *status = api->CustomOpDomain_Add(domain, &operator->callbacks);
            if (status) return status;
        }
    }
    return NULL;
}

/* On the CPU alone, in a domain that no file names: the functions of weights, giving symbols, and what multiplies these. */
static OrtStatus *add_symbol_operators(const OrtApi *api, OrtCustomOpDomain *domain, Operator *operators) {
    Operator *next = operators;
    for (size_t i = 0; i < 2 * FUNCTION_COUNT; i++) { /* both types of counts */
        const Function *function = &FUNCTIONS[i / 2];
        if (!function->is_weight || (!has_stream(function) && i % 2)) continue;
        *next++ = make_operator(api, function, COUNTS_TYPES[i % 2], TYPE_UINT8, false);
    }
    *next = make_operator(api, &product_function, TYPE_ANY, TYPE_FLOAT, false);
    next->callbacks.CreateKernelV2 = create_product;
    next->callbacks.KernelComputeV2 = compute_product;
    OrtStatus *status = NULL;
    for (Operator *each = operators; each <= next && !status; each++) {
        status = api->CustomOpDomain_Add(domain, &each->callbacks);
    }
    return status;
}

/* Operators live as long as the process: sessions may end in any order. */
#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    static Operator operators[MAX_OPERATORS], symbol_operators[MAX_SYMBOL_OPERATORS];
    static OrtCustomOpDomain *domain, *symbol_domain;
    const OrtApi *api = base->GetApi(ORT_API_VERSION);
    if (!api) return base->GetApi(1)->CreateStatus(ORT_FAIL, "ai.tansor: ONNX Runtime is older than 1.20");
    OrtStatus *status = NULL;
    if (!domain) {
        status = api->CreateCustomOpDomain("ai.tansor", &domain);
        if (!status) status = add_operators(api, domain, operators);
        if (!status) status = api->CreateCustomOpDomain("ai.tansor.symbols", &symbol_domain);
        if (!status) status = add_symbol_operators(api, symbol_domain, symbol_operators);
        if (status) return status;
    }
    status = api->AddCustomOpDomain(options, domain);
    return status ? status : api->AddCustomOpDomain(options, symbol_domain);
}
