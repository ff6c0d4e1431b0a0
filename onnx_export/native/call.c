/* The inputs of a call as a Call, if they are one (docs/spec/onnx.md, "Functions", "Checks"; tans.md, "Block checks"). */
#include "tansor.h"

static bool is_of(const Tensor *tensor, int type, size_t rank) { return tensor->type == type && tensor->rank == rank; }

static int type_of(Role role) {
    switch (role) {
    case STREAM: return TYPE_UINT16;
    case LAYOUT: case CHUNKS: case SHAPE: return TYPE_INT64;
    case SCALE: return TYPE_FLOAT;
    default: return TYPE_UINT8;
    }
}

static Failure check_types(const Function *function, const Tensor inputs[ROLES]) {
    for (size_t i = 0; i < function->input_count; i++) {
        Role role = function->inputs[i];
        const Tensor *input = &inputs[role];
        if (role == COUNTS && is_of(input, TYPE_UINT16, 1)) continue;
        if (input->type != type_of(role)) return "Corrupt: an input has another type";
        if (role != SCALE && role != ZERO_POINT && role != SYMBOLS && input->rank != 1) {
            return "Corrupt: an input that is a vector has another rank";
        }
    }
    return NULL;
}

static int64_t number(const Tensor *tensor, uint64_t index) {
    int64_t value;
    memcpy(&value, (const uint8_t *)tensor->data + 8 * index, sizeof value);
    return value;
}

/* ---------------------------------------------------------------------------------------------------------------
 * Shapes
 */

static Failure read_shape(const Tensor *tensor, uint64_t first, Call *call) {
    if (tensor->count - first > MAX_RANK) return "Corrupt: more than 64 dimensions";
    call->rank = (size_t)(tensor->count - first);
    for (size_t axis = 0; axis < call->rank; axis++) call->shape[axis] = number(tensor, first + axis);
    return NULL;
}

static Failure count_elements(Call *call) {
    bool is_empty = false;
    for (size_t axis = 0; axis < call->rank; axis++) {
        if (call->shape[axis] < 0) return "Corrupt: a dimension is negative";
        is_empty |= call->shape[axis] == 0;
    }
    call->count = !is_empty;
    for (size_t axis = 0; axis < call->rank && !is_empty; axis++) {
        if (call->count > INT64_MAX / (uint64_t)call->shape[axis]) return "LimitExceeded: 2**63 elements or more";
        call->count *= (uint64_t)call->shape[axis];
    }
    call->unit_count = call->function->packed ? ceil_div(call->count, 2) : call->count;
    return NULL;
}

static Failure spread_over(const Tensor *small, const Call *call, Broadcast *broadcast) {
    if (small->rank > call->rank) return "Corrupt: a scale or zero point does not fit the shape";
    size_t rank = 0, outer = call->rank - small->rank;
    for (size_t axis = 0; axis < call->rank; axis++) {
        int64_t size = call->shape[axis], own = axis < outer ? 1 : small->shape[axis - outer];
        if (own != 1 && own != size) return "Corrupt: a scale or zero point does not fit the shape";
        if (size == 1) continue;
        uint64_t stride = own != 1; /* for now only whether there is one */
        if (rank && broadcast->stride[rank - 1] == stride) {
            broadcast->size[rank - 1] *= (uint64_t)size;
        } else {
            broadcast->size[rank] = (uint64_t)size;
            broadcast->stride[rank++] = stride;
        }
    }
    if (rank == 1 && broadcast->stride[0] == 0) rank = 0; /* one number for all */
    uint64_t stride = 1;
    for (size_t axis = rank; axis-- > 0;) {
        if (!broadcast->stride[axis]) continue;
        broadcast->stride[axis] = stride;
        stride *= broadcast->size[axis];
    }
    broadcast->rank = rank;
    broadcast->data = small->data;
    return NULL;
}

/* ---------------------------------------------------------------------------------------------------------------
 * Blocks
 */

static Failure read_stream(const Tensor inputs[ROLES], Stream *stream) {
    const Tensor *counts = &inputs[COUNTS], *layout = &inputs[LAYOUT], *classes = &inputs[CLASSES];
    if (inputs[STREAM].count % 2) return "Corrupt: an odd number of halves";
    if (counts->count < 1 || counts->count > 256) return "Corrupt: no counts, or more than 256";
    int64_t field[5];
    for (int i = 0; i < 5; i++) {
        field[i] = number(layout, (uint64_t)i);
        if (field[i] < 0) return "Corrupt: a field of the layout is negative";
    }
    if (field[1] < 5 || field[1] > 12) return "Corrupt: table_log is not 5 to 12";
    if (field[2] < 1 || field[2] > field[0]) return "Corrupt: no lanes, or more than symbols";
    if (field[4] > 31) return "Corrupt: length_width is above 31";
    *stream = (Stream){
        .symbol_count = (uint64_t)field[0], .table_log = (unsigned)field[1], .lane_count = (uint64_t)field[2],
        .length_base = (uint64_t)field[3], .length_width = (unsigned)field[4],
        .counts = counts->data, .alphabet = (unsigned)counts->count, .count_size = counts->type == TYPE_UINT8 ? 1 : 2,
        .classes = classes->data, .class_bytes = classes->count,
        .words = inputs[STREAM].data, .word_bytes = inputs[STREAM].bytes,
    };
    return NULL;
}

static Failure read_chunks(const Tensor *tensor, uint64_t units, Chunks *chunks) {
    if (tensor->count != 3) return "Corrupt: chunks are three numbers";
    int64_t chunk = number(tensor, 0), per_block = number(tensor, 1), coded = number(tensor, 2);
    if (chunk < 1 || chunk > UINT32_MAX || coded < 1 || coded >= per_block || per_block > 255) {
        return "Corrupt: chunks that cannot be";
    }
    *chunks = (Chunks){(uint64_t)chunk, (uint64_t)per_block, (uint64_t)coded};
    return units / (chunks->chunk * chunks->per_block) ? NULL : "Corrupt: fewer units than one block of chunks";
}

static uint64_t raw_unit_count(const Call *call) {
    const Chunks *cut = &call->chunks;
    switch (call->function->mode) {
    case RAW: return call->unit_count;
    case CONSTANT: return 1;
    case CODED: return 0;
    case PARTIAL: break;
    }
    return call->unit_count / (cut->chunk * cut->per_block) * cut->chunk * (cut->per_block - cut->coded);
}

/* The shape and what holds the units. */
static Failure read_block(const Tensor inputs[ROLES], Call *call) {
    const Function *function = call->function;
    bool has_stream = function->mode == CODED || function->mode == PARTIAL;
    Failure failure = NULL;
    if (function->mode == RAW && !function->packed) {
        call->rank = inputs[SYMBOLS].rank;
        memcpy(call->shape, inputs[SYMBOLS].shape, sizeof call->shape);
    } else if (has_stream) {
        if (inputs[LAYOUT].count < 5) return "Corrupt: the layout is too short";
        failure = read_shape(&inputs[LAYOUT], 5, call);
    } else {
        failure = read_shape(&inputs[SHAPE], 0, call);
    }
    if (!failure) failure = count_elements(call);
    if (!failure && has_stream) failure = read_stream(inputs, &call->stream);
    if (!failure && function->mode == PARTIAL) failure = read_chunks(&inputs[CHUNKS], call->unit_count, &call->chunks);
    return failure;
}

static Failure check_block(const Tensor inputs[ROLES], Call *call) {
    static const Role raw_role[] = {[RAW] = SYMBOLS, [CONSTANT] = SYMBOL, [CODED] = ROLES, [PARTIAL] = RAW_UNITS};
    const Function *function = call->function;
    Role role = function->mode == RAW && function->packed ? UNITS : raw_role[function->mode];
    call->raw = role == ROLES ? NULL : inputs[role].data;
    call->raw_count = role == ROLES ? 0 : inputs[role].count;
    if (call->raw_count != raw_unit_count(call)) return "Corrupt: number of units that are not coded";
    if (function->mode == RAW || function->mode == CONSTANT) return NULL;
    if (function->has_classes && call->stream.class_bytes == 0) return "Corrupt: no classes";
    if (call->stream.symbol_count != call->unit_count - call->raw_count) {
        return "Corrupt: the stream does not hold the units of its block";
    }
    return NULL;
}

static bool is_result(const Function *function, int64_t type) {
    if (function->is_weight) return type == TYPE_FLOAT || type == TYPE_FLOAT16 || type == TYPE_BFLOAT16;
    return type == TYPE_INT8 || type == TYPE_UINT8 || type == TYPE_INT4 || type == TYPE_UINT4;
}

Failure read_call(const Function *function, const Tensor inputs[ROLES], int64_t type, Call *call) {
    memset(call, 0, sizeof *call);
    call->function = function;
    call->type = (int)type;
    if (!is_result(function, type)) return "Corrupt: `to` is no type for this function";
    Failure failure = check_types(function, inputs);
    if (!failure) failure = read_block(inputs, call);
    if (!failure && function->is_weight) failure = spread_over(&inputs[SCALE], call, &call->scale);
    if (!failure) failure = spread_over(&inputs[ZERO_POINT], call, &call->zero_point);
    return failure ? failure : check_block(inputs, call);
}
