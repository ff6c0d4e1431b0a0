// Decodes tANS streams on a GPU, and writes symbols, integers or weights in the same pass.
//
// One thread decodes one lane; the 32 lanes of a warp are a *tile*. A warp copies the words of its tile, which lie
// behind one another, into shared memory (the *stage*), and each thread then walks through its own lane there. A
// tile that does not fit the stage is read from global memory instead: slower, but the same. Specification:
// docs/spec/tans.md; docs/gpu.md says why it is built like this.
//
// INTERFACE
//
// This text has no #include and compiles with NVRTC (--std=c++17) or nvcc, for compute capability 7.0 or later. All
// of it takes many seconds: -DTANS_ONLY_TYPE, such as -DTANS_ONLY_float16, leaves out the other types of 2 to 4 below,
// and all of 3; -DTANS_PARTIAL beside it leaves out 2 and 4 instead.
//
// All kernels are extern "C". Integers are unsigned unless the name of the kernel says otherwise; u8, u32, u64 have 8,
// 32, 64 bits. Pointers point to device memory and are aligned to their element; `out` to 16 bytes.
//
// 1. Once per stream: the model, and where each lane begins. What they fill may be kept as long as the stream.
//
//   tans_model      <<<1, 1024>>>                               256 threads or more
//       const void *counts        alphabet numbers of count_size bytes
//       u32 count_size            1 or 2
//       u32 alphabet              1 to 256
//       u32 table_log             5 to 12, must be the logarithm of the sum of the counts
//       const u8 *classes         class_bytes bytes, may be null if there are none
//       u32 class_bytes           0 to 65535
//       u32 *model                out: TANS_MODEL_WORDS = 4352 words
//       u32 *status
//
//   tans_lane_bits  <<<ceil(lane_count / 4096), 1024>>>
//       const u32 *words          the stream's words
//       u64 word_count
//       u32 lane_count, table_log, length_base, length_width
//       u64 *block_bits           out: one number per block of the grid
//
//   tans_positions  <<<ceil(lane_count / 4096), 1024>>>        after tans_lane_bits
//       the six arguments of tans_lane_bits
//       const u64 *block_bits
//       u64 *positions            out: lane_count + 1 numbers, bit positions
//       u32 *status
//
// 2. Decoding: tans_decode_TYPE, or tans_decode_TYPE_packed if a unit of the stream is a byte of two symbols.
//    TYPE is symbols (uint8), int8, uint8, int4, uint4 (one byte an element), float32, float16 or bfloat16.
//
//   tans_decode_TYPE[_packed]  <<<blocks, 32 * warps, shared>>>
//       const u32 *words
//       u64 word_count
//       u32 lane_count, table_log
//       const u32 *model          from tans_model; aligned to 16 bytes
//       const u8 *classes         those given to tans_model
//       const u64 *positions      from tans_positions
//       u32 stage_words           words of each warp's stage, a multiple of 4; 0 for none
//       void *out                 count elements
//       u64 count                 symbols to write: the stream's symbol_count, if packed 2 * that, or one less
//       const float *scale        not read unless TYPE is a float; may be null then
//       u32 scale_inner, scale_count
//       const u8 *zero_point      not read if TYPE is symbols; may be null then
//       u32 zero_point_inner, zero_point_count
//       u32 *status
//
//    The element with the C-order index i has scale[(i / scale_inner) % scale_count], likewise its zero point: one
//    number is (1, 1), one for each row of a matrix (columns, rows), one for each column (1, columns). inner is 1 to
//    2**31 - 1, as is the count.
//
//    Any geometry with warps from 1 to 32 gives the same result. Warps share the tiles evenly; shared is in bytes:
//        shared = 4 * (256 + 2**table_log + warps * stage_words)
//    more than 48 KiB of it must be allowed first (CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES). What is fast:
//        tiles        = ceil(lane_count / 32)
//        stage_words  = min(length_base + 2**length_width - 1, 1.25 * average words of a tile) + 16, rounded
//                       down to a multiple of 4
//        most         = min(32, (shared memory a block can have / 4 - 256 - 2**table_log) / stage_words)
//                       if that is below 8: stage_words = 0, most = 32
//        rounds       = ceil(tiles / (multiprocessors * most))
//        warps        = ceil(tiles / (multiprocessors * rounds))
//        blocks       = min(multiprocessors, ceil(tiles / warps))
//
// 3. Mode partial in one launch, if chunk is a multiple of 4, and the units that the elements lie in are fewer than
//    2**31; else 4 does it.
//
//   tans_partial_TYPE[_packed]  <<<blocks, 32 * warps, shared>>>
//       the eight arguments of tans_decode_TYPE before out
//       const u8 *raw             units that are not coded
//       u32 chunk, per_block, coded_chunks      how mode partial cuts; at least one block is whole
//       void *out, u64 count, const float *scale, ... u32 *status     as in tans_decode_TYPE; count is the tensor's
//
//    Geometry as for tans_decode_TYPE. Where warps * blocks >= tiles, there may be more blocks, and more warps in each,
//    for which `shared` needs no stage: they write what is raw, while the others decode. 16 more are fast, in as many
//    blocks as there are multiprocessors.
//
// 4. Without a stream: tans_values_TYPE for blocks of the modes raw and constant, and for mode partial after
//    tans_decode_symbols has decoded its units (never _packed) into a buffer.
//
//   tans_values_TYPE  <<<any, 256>>>
//       const u8 *raw             units that are not coded
//       const u8 *coded           units of the stream; null unless partial
//       u32 chunk, per_block, coded_chunks      how mode partial cuts; 0, 0, 0 in other modes
//       u32 packed                1: a unit is a byte of two symbols
//       u32 repeat                1: raw holds one unit that is repeated (mode constant)
//       void *out, u64 count, const float *scale, ... u32 *status     as in tans_decode_TYPE
//
// STATUS
//
// One u32, 0 before the first kernel of a stream, to which kernels only add bits. Nothing else reports damage.
//   TANS_TRUNCATED  1    the lanes' last bit lies behind the last word                         Truncated
//   TANS_WORDS      2    more words than the lanes need, or a bit behind the last lane         Corrupt
//   TANS_MODEL      4    counts or classes that no table has                                   Corrupt
//   TANS_LANE       8    a lane does not use exactly its bits                                  Corrupt
//   TANS_RANGE      16   an integer that TYPE does not have                                    Corrupt
// If a bit is set when tans_decode_* begins, it writes nothing. What it writes before it finds damage is arbitrary.
//
// The caller checks what needs no stream, before anything is launched: lane_count from 1 to the stream's
// symbol_count; length_width at most 31; lane_count * (table_log + length_width + length_base) <= 32 * word_count;
// symbol_count <= (32 * word_count + lane_count) << table_log unless one symbol has all slots and no class; of mode
// partial that coded and raw hold what its chunks need; lanes of fewer than 2**30 symbols. Whatever the bytes of the
// stream are then, no kernel reads or writes outside its buffers, and all of them end.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

enum { TANS_TRUNCATED = 1, TANS_WORDS = 2, TANS_MODEL = 4, TANS_LANE = 8, TANS_RANGE = 16 };
enum {
    MAX_TABLE = 4096,         // slots of the largest table
    TANS_MODEL_WORDS = 4352,  // table entries, then one word on the class that each symbol leads
    GROUP = 4,                // steps that are written at once
    TILE = 32,                // lanes of a warp
    SCAN_LANES = 4,           // lanes of a thread that sums lengths
    SCAN_BLOCK = 4096,        // and of its block
};

// A table entry: bit count in bits 0 to 4, whether the symbol leads a class in 7, symbol in 8 to 15, and above the base
// in bytes of the table. Shifts take their count from the lowest five bits of a register, so an entry shifts by its bit
// count as it is.
static const u32 LEADER = 1u << 7;

extern __shared__ u32 shared[];  // what is known of each symbol's class, the table, and the warps' stages

// Addresses in shared memory are numbers of bytes.
static __device__ u32 address_of(const u32 *word) {
#ifdef __CUDA_ARCH__
    u32 address;  // volatile: else it is computed again at every use
    asm volatile("{ .reg .u64 a; cvta.to.shared.u64 a, %1; cvt.u32.u64 %0, a; }" : "=r"(address) : "l"(word));
    return address;
#else
    return (u32)((const u8 *)word - (const u8 *)shared);
#endif
}

static __device__ u32 load(u32 address) {
#ifdef __CUDA_ARCH__
    u32 word;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
    return word;
#else
    return *(const u32 *)((const u8 *)shared + address);
#endif
}

// Whether any lane of the warp, all of which ask, has a bit set: cheaper than to branch in some of them.
static __device__ bool any_lane(u32 bits) {
#ifdef __CUDA_ARCH__
    u32 any;
    asm volatile("{ .reg .pred p, q; setp.ne.u32 p, %1, 0; vote.sync.any.pred q, p, 0xFFFFFFFF; selp.u32 %0, 1, 0, q; }"
                 : "=r"(any) : "r"(bits));
    return any;
#else
    return bits;
#endif
}

// The least number of a warp's lanes, all of which ask.
static __device__ u32 least_of_lanes(u32 value) {
#ifdef __CUDA_ARCH__
    for (u32 i = 16; i; i /= 2) value = min(value, __shfl_xor_sync(0xFFFFFFFF, value, i));
#endif
    return value;
}

// The lowest `width` modulo 32 bits.
static __device__ u32 low_bits(u32 value, u32 width) {
#ifdef __CUDA_ARCH__
    u32 bits;
    asm("szext.wrap.u32 %0, %1, %2;" : "=r"(bits) : "r"(value), "r"(width));
    return bits;
#else
    return value & ((1u << (width & 31)) - 1);
#endif
}

// ---------------------------------------------------------------------------------------------------------------
// The model
// ---------------------------------------------------------------------------------------------------------------

// Of each leader its width in bits 0 to 3, where its members begin in `classes` above. False if they are refused.
static __device__ bool read_classes(const u8 *classes, u32 size, u32 *info) {
    if (size == 0) return true;
    u32 count = classes[0];
    if (count == 0 || size > 65535 || size < 1 + count) return false;
    u32 first = 1 + count;
    for (u32 i = 0; i < count; ++i) {
        u32 width = classes[1 + i];
        if (width < 1 || width > 8 || first + (1u << width) > size) return false;
        u32 leader = classes[first];
        if (info[leader]) return false;
        info[leader] = width | first << 4;
        first += 1u << width;
    }
    return first == size;
}

// The symbol that a slot belongs to, of slots listed symbol by symbol: the last one that begins at or before it.
static __device__ u32 symbol_of(const u32 *first, u32 slot) {
    u32 symbol = 0;
    for (u32 step = 128; step; step >>= 1)
        if (first[symbol + step] <= slot) symbol += step;
    return symbol;
}

// Ascending bitonic sort of 2**log keys by all threads of the block.
static __device__ void sort_keys(u32 *keys, u32 log) {
    for (u32 size = 2; size <= 1u << log; size <<= 1)
        for (u32 stride = size >> 1; stride; stride >>= 1) {
            __syncthreads();
            for (u32 i = threadIdx.x; i < 1u << log; i += blockDim.x) {
                u32 partner = i ^ stride;
                if (partner < i) continue;  // the other one's task
                u32 a = keys[i], b = keys[partner];
                if ((a > b) == !(i & size)) {
                    keys[i] = b;
                    keys[partner] = a;
                }
            }
        }
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(1024)
tans_model(const void *counts, u32 count_size, u32 alphabet, u32 table_log, const u8 *classes, u32 class_bytes,
           u32 *model, u32 *status) {
    __shared__ u32 keys[MAX_TABLE], q[256], first[256], info[256];
    __shared__ u32 bad;
    const u32 thread = threadIdx.x;
    if (thread < 256) {
        bool stored = thread < alphabet;
        q[thread] = !stored ? 0 : count_size == 1 ? ((const u8 *)counts)[thread] : ((const u16 *)counts)[thread];
        info[thread] = 0;
    }
    __syncthreads();
    if (thread == 0) {
        u32 sum = 0;
        for (u32 s = 0; s < 256; ++s) {
            first[s] = sum;
            sum += q[s];
        }
        bad = table_log < 5 || table_log > 12 || alphabet < 1 || alphabet > 256 || sum != 1u << (table_log & 31) ||
              !read_classes(classes, class_bytes, info);
        if (bad) atomicOr(status, TANS_MODEL);
    }
    __syncthreads();
    if (bad) {  // a model that reads nothing
        for (u32 i = thread; i < TANS_MODEL_WORDS; i += blockDim.x) model[i] = 0;
        return;
    }
    const u32 size = 1u << table_log;
    for (u32 slot = thread; slot < size; slot += blockDim.x) {
        u32 s = symbol_of(first, slot), j = slot - first[s];
        u32 key = q[s] == 1 ? 1u << 16 : ((2 * j + 1) << 16) / (2 * q[s]);
        keys[slot] = key << 12 | slot;  // equal keys keep their order
    }
    sort_keys(keys, table_log);
    for (u32 state = thread; state < size; state += blockDim.x) {
        u32 slot = keys[state] & 4095, s = symbol_of(first, slot);
        u32 x = q[s] + slot - first[s];  // a symbol's slots lie in the table in their order
        u32 bit_count = table_log - (31 - __clz(x));
        model[state] = bit_count | (info[s] ? LEADER : 0) | s << 8 | ((x << bit_count) - size) << 18;
    }
    for (u32 state = size + thread; state < MAX_TABLE; state += blockDim.x) model[state] = 0;
    if (thread < 256) model[MAX_TABLE + thread] = info[thread];
}

// ---------------------------------------------------------------------------------------------------------------
// Where lanes begin
// ---------------------------------------------------------------------------------------------------------------

// All words of the stream; those behind the last one are zero.
struct Words {
    const u32 *words;
    u64 count;
    __device__ u32 operator()(u64 i) const { return i < count ? words[i] : 0; }
    __device__ u32 field(u64 position, u32 width) const {  // width at most 31
        u64 i = position >> 5;
        return low_bits(__funnelshift_r((*this)(i), (*this)(i + 1), (u32)position), width);
    }
};

struct Lengths {
    Words words;
    u32 lane_count, table_log, base, width;
    __device__ u64 first_bit() const { return (u64)lane_count * (table_log + width); }
    __device__ u64 operator()(u64 lane) const {
        if (lane >= lane_count) return 0;
        return (u64)base + words.field((u64)lane_count * table_log + lane * width, width);
    }
};

extern "C" __global__ void __launch_bounds__(1024)
tans_lane_bits(const u32 *words, u64 word_count, u32 lane_count, u32 table_log, u32 length_base, u32 length_width,
               u64 *block_bits) {
    __shared__ u64 total;
    const Lengths length = {{words, word_count}, lane_count, table_log, length_base, length_width};
    if (threadIdx.x == 0) total = 0;
    __syncthreads();
    u64 sum = 0;
    for (u32 i = 0; i < SCAN_LANES; ++i) sum += length((u64)blockIdx.x * SCAN_BLOCK + SCAN_LANES * threadIdx.x + i);
    atomicAdd(&total, sum);
    __syncthreads();
    if (threadIdx.x == 0) block_bits[blockIdx.x] = total;
}

extern "C" __global__ void __launch_bounds__(1024)
tans_positions(const u32 *words, u64 word_count, u32 lane_count, u32 table_log, u32 length_base, u32 length_width,
               const u64 *block_bits, u64 *positions, u32 *status) {
    __shared__ u64 before, sums[1024];
    const Lengths length = {{words, word_count}, lane_count, table_log, length_base, length_width};
    const u32 thread = threadIdx.x;
    if (thread == 0) before = length.first_bit();
    __syncthreads();
    u64 sum = 0;
    for (u32 i = thread; i < blockIdx.x; i += blockDim.x) sum += block_bits[i];
    if (sum) atomicAdd(&before, sum);
    const u64 lane = (u64)blockIdx.x * SCAN_BLOCK + SCAN_LANES * thread;
    sum = 0;
    for (u32 i = 0; i < SCAN_LANES; ++i) sum += length(lane + i);
    sums[thread] = sum;
    __syncthreads();
    for (u32 step = 1; step < 1024; step <<= 1) {
        u64 more = thread >= step ? sums[thread - step] : 0;
        __syncthreads();
        sums[thread] += more;
        __syncthreads();
    }
    u64 position = before + sums[thread] - sum;
    for (u32 i = 0; i < SCAN_LANES && lane + i < lane_count; ++i) {
        positions[lane + i] = position;
        position += length(lane + i);
        if (lane + i == lane_count - 1) {
            positions[lane_count] = position;
            if (position > 32 * word_count)
                atomicOr(status, TANS_TRUNCATED);
            else if ((position + 31) / 32 != word_count || (position % 32 && words[word_count - 1] >> position % 32))
                atomicOr(status, TANS_WORDS);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// What becomes of symbols: a sink takes four at a time and writes elements
// ---------------------------------------------------------------------------------------------------------------

// Dividing numbers of 64 bits takes long.
static __device__ u64 divide(u64 a, u64 b) { return (a | b) >> 32 ? a / b : (u32)a / (u32)b; }

// A scale or zero point for each element, read in steps: `seek` divides, `advance` only adds.
template <class T> struct Broadcast {
    const T *data;
    u32 inner, count;
    u32 at, place;            // index, and how many elements of the current index have passed
    u32 at_step, place_step;  // what a step adds
    u32 at_skip, place_skip;  // what a skip adds
    bool even;                // eight elements from a multiple of eight share a number
    bool rows;                // eight elements from a multiple of eight have eight numbers in a row
    T only;                   // the number, if there is one

    __device__ Broadcast(const T *data, u32 inner, u32 count) : data(data), inner(inner), count(count) {
        even = inner % 8 == 0 || count == 1;
        rows = inner == 1 && count % 8 == 0 && (u64)data % (8 * sizeof(T)) == 0;
    }
    __device__ void seek(u64 element, u64 stride) {
        at = at_step = place = place_step = 0;
        if (count > 1) {
            locate(element, at, place);
            locate(stride, at_step, place_step);
        }
        if (count == 1) only = data[0];
    }
    // How far the number of an element, or elements on, is from the first one.
    __device__ void locate(u64 elements, u32 &index, u32 &rest) const {
        const u64 numbers = divide(elements, inner);
        index = (u32)(numbers - divide(numbers, count) * count);
        rest = (u32)(elements - numbers * inner);
    }
    // Sets how many elements `skip` passes over.
    __device__ void set_skip(u64 elements) {
        at_skip = place_skip = 0;
        if (count > 1) locate(elements, at_skip, place_skip);
    }
    __device__ void skip() { add(at_skip, place_skip); }
    // The number of the next group if its elements share one, loaded long before it is used; what else it returns is
    // arbitrary.
    __device__ T fetch() {
        if (count == 1 || !even) return only;
        const T value = data[at];
        step();
        return value;
    }
    // Behind a group.
    __device__ void advance() {
        if (!even) step();
    }
    __device__ void step() { add(at_step, place_step); }
    __device__ void add(u32 more_at, u32 more_place) {
        at += more_at;
        place += more_place;
        if (place >= inner) {
            place -= inner;
            ++at;
        }
        if (at >= count) at -= count;
    }
    // The numbers of n elements from here; if they share one, it was fetched.
    template <u32 n> __device__ void read(T fetched, T *values) const {
        if (even) {
#pragma unroll
            for (u32 i = 0; i < n; ++i) values[i] = fetched;
            return;
        }
        if (rows) {
            struct alignas(n * sizeof(T) < 16 ? n * sizeof(T) : 16) Row {
                T values[n];
            };
            const Row row = *(const Row *)(data + at);
#pragma unroll
            for (u32 i = 0; i < n; ++i) values[i] = row.values[i];
            return;
        }
        u32 index = at, passed = place;
#pragma unroll
        for (u32 i = 0; i < n; ++i) {
            values[i] = data[index];
            if (++passed == inner) {
                passed = 0;
                if (++index == count) index = 0;
            }
        }
    }
};

struct Parameters {
    void *out;
    u64 count;
    const float *scale;
    u32 scale_inner, scale_count;
    const u8 *zero_point;
    u32 zero_point_inner, zero_point_count;
};

struct alignas(8) Bytes8 {
    u32 low, high;
};
struct alignas(16) Bytes16 {
    u32 x, y, z, w;
};

static __device__ void store(void *out, const u32 (&words)[1]) { *(u32 *)out = words[0]; }
static __device__ void store(void *out, const u32 (&words)[2]) { *(Bytes8 *)out = {words[0], words[1]}; }
static __device__ void store(void *out, const u32 (&words)[4]) {
    *(Bytes16 *)out = {words[0], words[1], words[2], words[3]};
}
static __device__ void store(void *out, const u32 (&words)[8]) {
    ((Bytes16 *)out)[0] = {words[0], words[1], words[2], words[3]};
    ((Bytes16 *)out)[1] = {words[4], words[5], words[6], words[7]};
}

// Where elements of `size` bytes go. Whole groups are stored without a check, of others the first `left` elements.
template <u32 size> struct Output {
    u8 *at;
    u64 step, gap;
    __device__ Output(void *out) : at((u8 *)out) {}
    __device__ void set_skip(u64 elements) { gap = size * elements; }
    __device__ void skip() { at += gap; }
    __device__ void seek(void *out, u64 i, u64 stride) {
        at = (u8 *)out + size * i;
        step = size * stride;
    }
    __device__ void advance() { at += step; }
    template <u32 n, bool whole> __device__ void write(const u32 (&words)[size * n / 4], u32 left) const {
        if (whole || left >= n)
            store(at, words);
        else
#pragma unroll
            for (u32 byte = 0; byte < size * n; ++byte)
                if (byte / size < left) at[byte] = (u8)(words[byte / 4] >> 8 * (byte % 4));
    }
};

// A sink whose groups are equally far from each other, so that it need not seek in between.
struct InOrder {
    static const bool in_order = true;
    __device__ u32 turn() const { return ~0u; }  // groups until it must seek
    __device__ void count_down(u32) {}
    __device__ void seek_turn() {}
};

// Symbols as they are.
struct Symbols : InOrder {
    void *out;
    Output<1> output;
    __device__ Symbols(const Parameters &p) : out(p.out), output(p.out) {}
    __device__ void seek(u64 i, u64 stride) { output.seek(out, i, stride); }
    __device__ void advance() { output.advance(); }
    __device__ void set_skip(u64 elements) { output.set_skip(elements); }
    __device__ void skip() { output.skip(); }
    struct Numbers {};
    __device__ Numbers fetch() { return {}; }
    template <u32 n, bool whole> __device__ void write(const u32 (&symbols)[n / 4], Numbers, u32 left) {
        output.write<n, whole>(symbols, left);
    }
    __device__ u32 status() const { return 0; }
};

static const u32 EACH = 0x01010101, TOP = 0x80808080;  // 1 in each of four bytes, and their highest bits

// Compares four bytes with a limit from -1 to 255.
struct Limit {
    u32 addend, small;  // what carries the lower seven bits into the highest one; all ones for a limit below 128
    __device__ Limit(int limit)
        : addend((limit < 128 ? 127 - limit : 255 - limit) * EACH), small(limit < 128 ? ~0u : 0) {}
    // The highest bit of each byte that is above the limit.
    __device__ u32 above(u32 x) const {
        const u32 carried = (x & ~TOP) + addend;
        return ((carried & x) | (carried & small) | (x & small)) & TOP;
    }
};

// Four differences of bytes, modulo 256.
static __device__ u32 subtract(u32 x, u32 y) { return ((x | TOP) - (y & ~TOP)) ^ ((x ^ ~y) & TOP); }

// Symbol minus zero point, which must be an integer from low to high.
template <int low, int high> struct Integers : InOrder {
    void *out;
    Output<1> output;
    Broadcast<u8> zero_point;
    Limit lowest, highest;  // symbols just below and just inside the range, if there is one zero point
    u32 outside;            // not zero if one was
    __device__ Integers(const Parameters &p)
        : out(p.out), output(p.out), zero_point(p.zero_point, p.zero_point_inner, p.zero_point_count), lowest(-1),
          highest(255), outside(0) {}
    __device__ void seek(u64 i, u64 stride) {
        output.seek(out, i, stride);
        zero_point.seek(i, stride);
        if (zero_point.count > 1) return;
        lowest = Limit(zero_point.only + low > 0 ? zero_point.only + low - 1 : -1);
        highest = Limit(zero_point.only + high < 255 ? zero_point.only + high : 255);
    }
    __device__ void advance() {
        output.advance();
        zero_point.advance();
    }
    __device__ void set_skip(u64 elements) {
        output.set_skip(elements);
        zero_point.set_skip(elements);
    }
    __device__ void skip() {
        output.skip();
        zero_point.skip();
    }
    typedef u8 Numbers;
    __device__ Numbers fetch() { return zero_point.fetch(); }
    template <u32 n, bool whole> __device__ void write(const u32 (&symbols)[n / 4], Numbers number, u32 left) {
        u32 words[n / 4] = {};
        if (zero_point.count == 1) {
#pragma unroll
            for (u32 j = 0; j < n / 4; ++j) {
                u32 wrong = highest.above(symbols[j]) | (lowest.above(symbols[j]) ^ TOP);
                if (!whole && left < 4 * j + 4) wrong &= left > 4 * j ? (1u << 8 * (left - 4 * j)) - 1 : 0;
                outside |= wrong;
                words[j] = subtract(symbols[j], zero_point.only * EACH);
            }
        } else {
            u8 zero[n];
            zero_point.template read<n>(number, zero);
#pragma unroll
            for (u32 j = 0; j < n; ++j) {
                const int value = (int)(symbols[j / 4] >> 8 * (j % 4) & 255) - (int)zero[j];
                outside |= (value < low || value > high) && (whole || j < left);
                words[j / 4] |= ((u32)value & 255) << 8 * (j % 4);
            }
        }
        output.write<n, whole>(words, left);
    }
    __device__ u32 status() const { return outside ? TANS_RANGE : 0; }
};

// Of two values, what `pack` gives is one or two words.
struct Float32 {
    static const u32 size = 4;
    static __device__ void pack(float first, float second, u32 *words) {
        words[0] = __float_as_uint(first);
        words[1] = __float_as_uint(second);
    }
};
struct Float16 {
    static const u32 size = 2;
    static __device__ void pack(float first, float second, u32 *words) {
#if !defined(__CUDA_ARCH__)
        words[0] = host_half(first) | (u32)host_half(second) << 16;
#elif __CUDA_ARCH__ >= 800
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(words[0]) : "f"(second), "f"(first));
#else
        u16 low, high;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(low) : "f"(first));
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(high) : "f"(second));
        words[0] = low | (u32)high << 16;
#endif
    }
};
struct BFloat16 {
    static const u32 size = 2;
    static __device__ void pack(float first, float second, u32 *words) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(words[0]) : "f"(second), "f"(first));
#else
        words[0] = half(first) | half(second) << 16;
#endif
    }
    static __device__ u32 half(float value) {  // half to even, as float32 is cut off after 16 bits
        const u32 bits = __float_as_uint(value);
        if (value != value) return bits >> 16 | 0x40;
        return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    }
};

// (float(symbol) - float(zero point)) * scale in float32, rounded once more to the type.
template <class Type> struct Weights : InOrder {
    void *out;
    Output<Type::size> output;
    Broadcast<float> scale;
    Broadcast<u8> zero_point;
    __device__ Weights(const Parameters &p)
        : out(p.out), output(p.out), scale(p.scale, p.scale_inner, p.scale_count),
          zero_point(p.zero_point, p.zero_point_inner, p.zero_point_count) {}
    __device__ void seek(u64 i, u64 stride) {
        output.seek(out, i, stride);
        scale.seek(i, stride);
        zero_point.seek(i, stride);
    }
    __device__ void advance() {
        output.advance();
        scale.advance();
        zero_point.advance();
    }
    __device__ void set_skip(u64 elements) {
        output.set_skip(elements);
        scale.set_skip(elements);
        zero_point.set_skip(elements);
    }
    __device__ void skip() {
        output.skip();
        scale.skip();
        zero_point.skip();
    }
    // 2**23 + x for a byte x: the byte put into the lowest bits of the number's mantissa. Differences are exact.
    static __device__ float lifted(u32 bytes, u32 place) {
        return __uint_as_float(__byte_perm(bytes, 0x4B000000, 0x7440 + place));
    }
    struct Numbers {
        float scale;
        u8 zero_point;
    };
    __device__ Numbers fetch() { return {scale.fetch(), zero_point.fetch()}; }
    template <u32 n, bool whole> __device__ void write(const u32 (&symbols)[n / 4], Numbers numbers, u32 left) {
        float values[n];
        if (scale.even && zero_point.even) {
            const float zero = lifted(numbers.zero_point, 0);
#pragma unroll
            for (u32 j = 0; j < n; ++j)
                values[j] = __fmul_rn(__fsub_rn(lifted(symbols[j / 4], j % 4), zero), numbers.scale);
        } else {
            float factor[n];
            u8 zero[n];
            scale.template read<n>(numbers.scale, factor);
            zero_point.template read<n>(numbers.zero_point, zero);
#pragma unroll
            for (u32 j = 0; j < n; ++j)
                values[j] = __fmul_rn(__fsub_rn(lifted(symbols[j / 4], j % 4), lifted(zero[j], 0)), factor[j]);
        }
        u32 words[Type::size * n / 4];
#pragma unroll
        for (u32 j = 0; j < n; j += 2) Type::pack(values[j], values[j + 1], words + Type::size * j / 4);
        output.template write<n, whole>(words, left);
    }
    __device__ u32 status() const { return 0; }
};

// How mode partial cuts elements. The stream also holds those behind the last whole block.
struct Cut {
    u32 raw_run, coded_run;  // of each block: first the ones, then the others
    u32 blocks;              // whole ones
    __device__ Cut(u32 chunk, u32 per_block, u32 coded_chunks, u64 count, bool packed) {
        const u32 each = packed ? 2 : 1, block = chunk * per_block * each;
        coded_run = chunk * coded_chunks * each;
        raw_run = block - coded_run;
        blocks = (u32)(packed ? count + 1 : count) / block;
    }
    __device__ u32 raw_count() const { return blocks * raw_run; }
};

// Puts the elements of the stream, or those that are raw, where they belong in a tensor that is cut. A group never
// lies in two runs.
template <class Sink, bool coded> struct Placed {
    Sink sink;
    const Cut cut;
    static const bool in_order = false;
    u32 place, place_step;  // in the run that the group lies in, of whole blocks; 0 and 0 behind them
    u32 until_turn;         // groups until the first one behind the whole blocks
    u64 turning, step;      // its index in the stream, and how far groups are from each other there
    __device__ Placed(const Parameters &p, const Cut &cut) : sink(p), cut(cut) {}
    __device__ u32 run() const { return coded ? cut.coded_run : cut.raw_run; }
    __device__ void seek(u64 i, u64 stride) {
        const u64 count = (u64)cut.blocks * run(), length = (u64)cut.raw_run + cut.coded_run;
        const u64 block = divide(i, run()), steps = divide(stride, run());
        place = place_step = 0;
        step = stride;
        until_turn = i < count ? (u32)divide(count - i + stride - 1, stride) : ~0u;
        turning = i + until_turn * stride;
        if (i >= count) return sink.seek(i - count + cut.blocks * length, stride);
        place = (u32)(i - block * run());
        place_step = (u32)(stride - steps * run());
        sink.seek(block * length + (coded ? cut.raw_run : 0) + place, steps * length + place_step);
        sink.set_skip(coded ? cut.raw_run : cut.coded_run);
    }
    __device__ u32 turn() const { return until_turn; }
    __device__ void count_down(u32 groups) {
        if (until_turn != ~0u) until_turn -= groups;
    }
    __device__ void seek_turn() { seek(turning, step); }
    __device__ void advance() {
        sink.advance();
        place += place_step;
        if (place < run()) return;
        place -= run();
        sink.skip();
    }
    struct Numbers {};
    __device__ Numbers fetch() { return {}; }
    template <u32 n, bool whole> __device__ void write(const u32 (&symbols)[n / 4], Numbers, u32 left) {
        sink.template write<n, whole>(symbols, sink.fetch(), left);
    }
    __device__ u32 status() const { return sink.status(); }
};

// Four bytes of two symbols each as eight bytes, the low half first.
static __device__ void split_nibbles(u32 units, u32 (&symbols)[2]) {
    u32 low = units & 0x0F0F0F0F, high = units >> 4 & 0x0F0F0F0F;
    symbols[0] = __byte_perm(low, high, 0x5140);
    symbols[1] = __byte_perm(low, high, 0x7362);
}

// Four units: all of their symbols if whole, else the first `left`.
template <bool packed, bool whole, class Sink>
static __device__ void put(Sink &sink, u32 units, typename Sink::Numbers numbers, u64 left) {
    const u32 most = (u32)min(left, (u64)8);
    if (packed) {
        u32 symbols[2];
        split_nibbles(units, symbols);
        sink.template write<8, whole>(symbols, numbers, most);
    } else {
        const u32 symbols[1] = {units};
        sink.template write<4, whole>(symbols, numbers, most);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Decoding
// ---------------------------------------------------------------------------------------------------------------

// Three words of a lane, and the cursor of the one behind them.
struct Window {
    u32 w0, w1, w2, next;
};

// The words of a lane in the stage. A cursor is an address.
struct Staged {
    static const u32 batch = 4;  // groups between two looks for literals
    u32 first, last;             // where the lane begins; the last word of the tile: some way behind the lane
    __device__ u32 operator()(u32 cursor) const { return load(cursor); }
    __device__ void shift_if(u32 condition, Window &w) const {
        w.w0 = condition ? w.w1 : w.w0;
        w.w1 = condition ? w.w2 : w.w1;
#ifdef __CUDA_ARCH__
        // In C++ the new word would come by way of another register, and moving it would wait for the load.
        asm volatile("{ .reg .pred p; setp.ne.u32 p, %2, 0; @p ld.shared.u32 %0, [%1]; }"
                     : "+r"(w.w2) : "r"(w.next), "r"(condition) : "memory");
#else
        if (condition) w.w2 = load(w.next);
#endif
        w.next = condition ? min(w.next + 4, last) : w.next;
    }
};

// The words of a lane in the stream. A cursor counts bytes from its first one.
struct Streamed {
    static const u32 batch = 1;
    u32 first, last;
    Words words;
    u64 begin;
    __device__ u32 operator()(u32 cursor) const { return words(begin + (cursor >> 2)); }
    __device__ void shift_if(u32 condition, Window &w) const {
        if (condition) w = {w.w1, w.w2, (*this)(w.next), min(w.next + 4, last)};
    }
};

// What all lanes share.
struct Model {
    u32 class_info, table;  // addresses
    const u8 *classes;
};

// A lane while it is decoded.
template <class Source> struct Lane {
    const Source source;
    const Model model;
    Window window;
    u32 place;  // modulo 32 the first bit in the window that was not read; what lies above bit 5 is arbitrary
    u32 entry;  // of the state
    i64 end;    // where the literals that were not read end, in bits from the lane's first word

    __device__ Lane(const Source &source, const Model &model, u32 state, u32 begin, u64 length)
        : source(source), model(model), place(begin), end((i64)(begin + length)) {
        const u32 at = source.first;
        window = {source(at), source(at + 4), source(at + 8), at + 12};
        entry = load(model.table + 4 * state);
    }

    // At least 32 bits that were not read.
    __device__ u32 bits() const { return __funnelshift_r(window.w0, window.w1, place); }

    // Passes over as many bits as the entries in the sum say, at most 31. Words are loaded long before they are used.
    __device__ void pass(u32 entries) {
        const u32 before = place;
        place += entries;
        source.shift_if((before ^ place) & 32, window);
    }

    // The entry of the state behind one, whose bits are the lowest.
    __device__ u32 next(u32 entry, u32 bits) const {
        return load(4 * low_bits(bits, entry) + ((entry >> 16) + model.table));
    }

    // Emits four units, and moves on behind them or stays in the last of the four states: its symbol needs no bits. In
    // the bytes of `leaders` the highest bit says which units are leaders.
    __device__ u32 four_units(bool last, u32 &leaders) {
        const u32 e0 = entry;
        u32 low = bits();
        const u32 e1 = next(e0, low);
        low = __funnelshift_r(low, 0, e0);
        const u32 e2 = next(e1, low);
        pass(e0 + e1);
        low = bits();
        const u32 e3 = next(e2, low);
        low = __funnelshift_r(low, 0, e2);
        if (!last) entry = next(e3, low);
        pass(last ? e2 : e2 + e3);
        const u32 first = __byte_perm(e0, e1, 0x4051), second = __byte_perm(e2, e3, 0x4051);
        leaders = __byte_perm(first, second, 0x7632);
        return __byte_perm(first, second, 0x5410);
    }

    __device__ void resolve_all(u32 &units, u32 leaders) {
        for (leaders &= TOP; leaders; leaders &= leaders - 1)
            resolve(units, 31 - __clz(leaders & (0 - leaders)) - 7);
    }

    // The member in place of the leader in the byte that begins at bit `shift`.
    __device__ void resolve(u32 &units, u32 shift) {
        const u32 info = load(model.class_info + 4 * (units >> shift & 255)), width = info & 15;
        end -= width;  // in a damaged lane even below its begin, and then anything is read: it is refused later
        const u32 at = source.first + 4 * min((u32)(end >> 5), (source.last - source.first - 4) >> 2);
        const u32 literal = low_bits(__funnelshift_r(source(at), source(at + 4), (u32)end), width);
        units = (units & ~(255u << shift)) | (u32)model.classes[(info >> 4) + literal] << shift;
    }

    // Whether the states' bits end where the literals begin. Past each other they never meet again, nor does a lane
    // come back that has reached the last word.
    __device__ bool exact() const { return 8 * (i64)(window.next - source.first) - 96 + (place & 31) == end; }
};

// n groups of four units. Literals are rare but slow: the warp looks for them once for all groups.
template <bool packed, u32 n, class Source, class Sink>
static __device__ void decode_groups(Lane<Source> &lane, Sink &sink) {
    typename Sink::Numbers numbers[n];
    u32 units[n], leaders[n], any = 0;
#pragma unroll
    for (u32 i = 0; i < n; ++i) numbers[i] = sink.fetch();
#pragma unroll
    for (u32 i = 0; i < n; ++i) {
        units[i] = lane.four_units(false, leaders[i]);
        any |= leaders[i];
    }
    if (any_lane(any & TOP)) {
#pragma unroll
        for (u32 i = 0; i < n; ++i) lane.resolve_all(units[i], leaders[i]);
    }
#pragma unroll
    for (u32 i = 0; i < n; ++i) {
        put<packed, true>(sink, units[i], numbers[i], 8);
        sink.advance();
    }
}

// All units of a lane; of the symbols in its last group, `left` or fewer are the tensor's.
template <bool packed, class Source, class Sink>
static __device__ bool decode_lane(Lane<Source> lane, u32 groups, u64 left, Sink &sink) {
    // The lanes of a warp go on together: to where the first of them turns.
#pragma unroll 1
    for (u32 rest = groups - 1;;) {
        const u32 turn = Sink::in_order ? ~0u : least_of_lanes(sink.turn());
        u32 now = min(turn, rest);
        const bool turns = turn <= rest;
        rest -= now;
        sink.count_down(now);
        for (; now >= Source::batch; now -= Source::batch) decode_groups<packed, Source::batch>(lane, sink);
#pragma unroll 1
        for (; now; --now) decode_groups<packed, 1>(lane, sink);
        if (!turns) break;
        if (sink.turn() == 0) sink.seek_turn();
    }
    u32 leaders, units = lane.four_units(true, leaders);
    lane.resolve_all(units, leaders);
    put<packed, false>(sink, units, sink.fetch(), left);
    return lane.exact();
}

// Copies of 16 bytes that do not pass through registers, and run until they are waited for.
static __device__ void copy_four(u32 *to, const u32 *from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address_of(to)), "l"(from) : "memory");
#else
    *(Bytes16 *)to = *(const Bytes16 *)from;
#endif
}

static __device__ void wait_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// A warp brings `count` words from the stream's word `first` on into the stage; both lie alike in 16 bytes.
static __device__ void fill_stage(u32 *stage, const Words &words, i64 first, u32 count) {
    for (u32 i = 4 * (threadIdx.x % TILE); i < count; i += 4 * TILE) {
        const i64 from = first + i;
        if (from >= 0 && (u64)from + 4 <= words.count)
            copy_four(stage + i, words.words + from);
        else
            for (u32 j = 0; j < 4; ++j) stage[i + j] = words((u64)(from + j));
    }
}

// All of a stream, of which `count` symbols are the tensor's.
template <bool packed, class Sink>
static __device__ void decode(const Words words, u32 lane_count, u32 table_log, const u32 *model_words,
                              const u8 *classes, const u64 *positions, u32 stage_words, Sink &sink, u64 count,
                              u32 *status) {
    const u32 warps = blockDim.x / TILE, warp = threadIdx.x / TILE, tiles = (lane_count - 1) / TILE + 1;
    const u32 table_words = 1u << table_log;
    u32 *const table = shared + 256, *const stage = table + table_words + warp * (stage_words & ~3u);
    for (u32 i = 4 * threadIdx.x; i < table_words; i += 4 * blockDim.x) copy_four(table + i, model_words + i);
    for (u32 i = 4 * threadIdx.x; i < 256; i += 4 * blockDim.x) copy_four(shared + i, model_words + MAX_TABLE + i);
    const Model model = {address_of(shared), address_of(table), classes};
    const u32 stage_address = address_of(stage);
    const bool damaged = any_lane(*status);  // lanes of a warp go on together or not at all
    bool waiting = true;  // for the table
    u32 found = 0;
    for (u64 tile = (u64)warp * gridDim.x + blockIdx.x; waiting || tile < tiles; tile += (u64)warps * gridDim.x) {
        const u64 first_lane = min(tile * TILE, (u64)lane_count), last_lane = min(first_lane + TILE, (u64)lane_count);
        // Where lanes end within a warp, the last one is decoded several times.
        const u64 k = min(first_lane + threadIdx.x % TILE, (u64)lane_count - 1);
        const u64 first_bit = positions[first_lane], last_bit = positions[last_lane];
        const u64 position = positions[k], length = positions[k + 1] - position;
        const u32 state = words.field(k * table_log, table_log), begin = (u32)position & 31;
        // The stage begins with the word of the stream that lies on a multiple of 16 bytes.
        const i64 first = (i64)(first_bit >> 5) - ((u64)words.words / 4 + (first_bit >> 5)) % 4;
        const u64 span = (last_bit >> 5) - first + 8;
        const bool staged = span <= (stage_words & ~3u);
        if (staged && tile < tiles) fill_stage(stage, words, first, (u32)span);
        // Divisions, while words are on their way.
        const u64 stride = (u64)(packed ? 2 * GROUP : GROUP) * lane_count;  // symbols from a lane's group to the next
        const u32 groups = (u32)divide(count + stride - 1, stride);
        const u64 i = (packed ? 2 * GROUP : GROUP) * k, last = i + (groups - 1) * stride;
        const u64 left = last < count ? count - last : 0;
        sink.seek(i, stride);
        wait_for_copies();
        if (waiting)
            __syncthreads();
        else
            __syncwarp();
        waiting = false;
        if (damaged || tile >= tiles) return;
        bool exact;
        if (staged) {
            const u32 offset = (u32)((position >> 5) - first);
            const Staged source = {stage_address + 4 * offset, stage_address + 4 * (u32)(span - 1)};
            exact = decode_lane<packed>(Lane<Staged>(source, model, state, begin, length), groups, left, sink);
        } else {
            const Streamed source = {0, 4 * ((u32)((begin + length) >> 5) + 7), words, position >> 5};
            exact = decode_lane<packed>(Lane<Streamed>(source, model, state, begin, length), groups, left, sink);
        }
        found |= sink.status() | (exact ? 0 : TANS_LANE);
        __syncwarp();  // before the next tile takes this one's place
    }
    if (found) atomicOr(status, found);
}

// ---------------------------------------------------------------------------------------------------------------
// Units that are not all in a stream
// ---------------------------------------------------------------------------------------------------------------

// Walks through the units of a block in order.
struct Units {
    const u8 *raw, *coded;
    u64 whole;  // units in whole blocks of chunks
    u64 raw_run, coded_run;
    bool repeat;
    u64 index, block, place;  // current unit; its block, and its place there

    __device__ Units(const u8 *raw, const u8 *coded, u32 chunk, u32 per_block, u32 coded_chunks, bool repeat, u64 units)
        : raw(raw), coded(coded), repeat(repeat), block(0), place(0) {
        coded_run = (u64)chunk * coded_chunks;
        raw_run = (u64)chunk * per_block - coded_run;
        whole = coded_run ? units / (raw_run + coded_run) * (raw_run + coded_run) : 0;
    }
    __device__ void seek(u64 unit) {
        index = unit;
        if (index >= whole) return;
        block = divide(index, raw_run + coded_run);
        place = index - block * (raw_run + coded_run);
    }
    __device__ u32 next() {
        const u64 i = index++;
        if (!coded_run) return raw[repeat ? 0 : i];
        if (i >= whole) return coded[i - whole / (raw_run + coded_run) * raw_run];
        const u8 unit = place < raw_run ? raw[block * raw_run + place] : coded[block * coded_run + place - raw_run];
        if (++place == raw_run + coded_run) {
            place = 0;
            ++block;
        }
        return unit;
    }
};

// The raw units of a tensor that is cut, by the threads of a block from `first` on: some groups at once, so that their
// loads run beside each other.
template <bool packed, class Sink>
static __device__ void write_raw(const u8 *raw, Placed<Sink, false> &sink, u32 first) {
    const u32 each = packed ? 2 : 1, most = 4, threads = blockDim.x - first;
    const u64 count = sink.cut.raw_count(), stride = (u64)each * GROUP * threads * gridDim.x;
    u64 i = (u64)each * GROUP * (blockIdx.x * threads + threadIdx.x - first);
    if (i >= count) return;
    sink.seek(i, stride);
    while (i < count) {
        u32 units[most];
#pragma unroll
        for (u32 j = 0; j < most; ++j) {
            const u8 *from = raw + (i + j * stride) / each;
            if (i + j * stride >= count) continue;
            if ((u64)raw % 4 == 0)
                units[j] = *(const u32 *)from;
            else
                units[j] = from[0] | from[1] << 8 | from[2] << 16 | (u32)from[3] << 24;
        }
#pragma unroll
        for (u32 j = 0; j < most && i < count; ++j, i += stride) {
            put<packed, true>(sink, units[j], sink.fetch(), 8);
            sink.advance();
        }
    }
}

// The first thread of a block that has no lane, 0 if all have one.
static __device__ u32 first_idle(u32 lane_count) {
    const u32 tiles = (lane_count - 1) / TILE + 1, warps = (tiles - 1) / gridDim.x + 1;
    return TILE * warps < blockDim.x ? TILE * warps : 0;
}

template <bool packed, class Sink>
static __device__ void write_units(Units units, u64 count, const Parameters &parameters, u32 *status) {
    Sink sink(parameters);
    const u64 each = packed ? 2 * GROUP : GROUP, stride = each * blockDim.x * gridDim.x;
    u64 i = each * ((u64)blockIdx.x * blockDim.x + threadIdx.x);
    sink.seek(i, stride);
    for (; i < parameters.count; i += stride) {
        const u64 first = i / each * GROUP;
        const typename Sink::Numbers numbers = sink.fetch();
        u32 group = 0;
        units.seek(first);
        for (u32 j = 0; j < GROUP && first + j < count; ++j) group |= units.next() << 8 * j;
        put<packed, false>(sink, group, numbers, parameters.count - i);
        sink.advance();
    }
    if (sink.status()) atomicOr(status, sink.status());
}

template <class Sink>
static __device__ void values(const u8 *raw, const u8 *coded, u32 chunk, u32 per_block, u32 coded_chunks, bool packed,
                              bool repeat, const Parameters parameters, u32 *status) {
    const u64 count = packed ? (parameters.count + 1) / 2 : parameters.count;
    const Units units(raw, coded, chunk, per_block, coded_chunks, repeat, count);
    if (packed)
        write_units<true, Sink>(units, count, parameters, status);
    else
        write_units<false, Sink>(units, count, parameters, status);
}

// ---------------------------------------------------------------------------------------------------------------
// The kernels
// ---------------------------------------------------------------------------------------------------------------

#define OUTPUT                                                                                                         \
    void *out, u64 count, const float *scale, u32 scale_inner, u32 scale_count, const u8 *zero_point,                  \
        u32 zero_point_inner, u32 zero_point_count, u32 *status
#define PARAMETERS {out, count, scale, scale_inner, scale_count, zero_point, zero_point_inner, zero_point_count}

#define STREAM_ARGUMENTS                                                                                               \
    const u32 *words, u64 word_count, u32 lane_count, u32 table_log, const u32 *model, const u8 *classes,              \
        const u64 *positions, u32 stage_words
#define DECODE(name, packed, ...)                                                                                      \
    extern "C" __global__ void __launch_bounds__(1024, 1) name(STREAM_ARGUMENTS, OUTPUT) {                             \
        __VA_ARGS__ sink(Parameters PARAMETERS);                                                                       \
        decode<packed>(Words{words, word_count}, lane_count, table_log, model, classes, positions, stage_words, sink,  \
                       count, status);                                                                                 \
    }
#define PARTIAL(name, packed, ...)                                                                                     \
    extern "C" __global__ void __launch_bounds__(1024, 1)                                                              \
    name(STREAM_ARGUMENTS, const u8 *raw, u32 chunk, u32 per_block, u32 coded_chunks, OUTPUT) {                        \
        const Parameters parameters = PARAMETERS;                                                                      \
        const Cut cut(chunk, per_block, coded_chunks, count, packed);                                                  \
        Placed<__VA_ARGS__, true> sink(parameters, cut);                                                               \
        const u32 first = first_idle(lane_count);                                                                      \
        decode<packed>(Words{words, word_count}, lane_count, table_log, model, classes, positions, stage_words, sink,  \
                       count - cut.raw_count(), status);                                                               \
        if (threadIdx.x < first || *(volatile u32 *)status) return;                                                    \
        Placed<__VA_ARGS__, false> rest(parameters, cut);                                                              \
        write_raw<packed>(raw, rest, first);                                                                           \
        if (rest.status()) atomicOr(status, rest.status());                                                            \
    }
#define VALUES(name, ...)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
    name(const u8 *raw, const u8 *coded, u32 chunk, u32 per_block, u32 coded_chunks, u32 packed, u32 repeat, OUTPUT) { \
        values<__VA_ARGS__>(raw, coded, chunk, per_block, coded_chunks, packed, repeat, Parameters PARAMETERS,         \
                            status);                                                                                   \
    }
#define WHOLE_KERNELS(type, ...)                                                                                       \
    DECODE(tans_decode_##type, false, __VA_ARGS__)                                                                     \
    DECODE(tans_decode_##type##_packed, true, __VA_ARGS__)                                                             \
    VALUES(tans_values_##type, __VA_ARGS__)
#define PARTIAL_KERNELS(type, ...)                                                                                     \
    PARTIAL(tans_partial_##type, false, __VA_ARGS__)                                                                   \
    PARTIAL(tans_partial_##type##_packed, true, __VA_ARGS__)

#if defined(TANS_ONLY_symbols) || defined(TANS_ONLY_int8) || defined(TANS_ONLY_uint8) || defined(TANS_ONLY_int4) || \
    defined(TANS_ONLY_uint4) || defined(TANS_ONLY_float32) || defined(TANS_ONLY_float16) || defined(TANS_ONLY_bfloat16)
#define TANS_ONLY
#endif
#ifndef TANS_ONLY
#define KERNELS(type, ...) WHOLE_KERNELS(type, __VA_ARGS__) PARTIAL_KERNELS(type, __VA_ARGS__)
#elif defined(TANS_PARTIAL)
#define KERNELS PARTIAL_KERNELS
#else
#define KERNELS WHOLE_KERNELS
#endif
#if !defined(TANS_ONLY) || defined(TANS_ONLY_symbols)
KERNELS(symbols, Symbols)
#endif
#if !defined(TANS_ONLY) || defined(TANS_ONLY_int8)
KERNELS(int8, Integers<-128, 127>)
#endif
#if !defined(TANS_ONLY) || defined(TANS_ONLY_uint8)
KERNELS(uint8, Integers<0, 255>)
#endif
#if !defined(TANS_ONLY) || defined(TANS_ONLY_int4)
KERNELS(int4, Integers<-8, 7>)
#endif
#if !defined(TANS_ONLY) || defined(TANS_ONLY_uint4)
KERNELS(uint4, Integers<0, 15>)
#endif
#if !defined(TANS_ONLY) || defined(TANS_ONLY_float32)
KERNELS(float32, Weights<Float32>)
#endif
#if !defined(TANS_ONLY) || defined(TANS_ONLY_float16)
KERNELS(float16, Weights<Float16>)
#endif
#if !defined(TANS_ONLY) || defined(TANS_ONLY_bfloat16)
KERNELS(bfloat16, Weights<BFloat16>)
#endif
