
// Integers of four bits, one to a byte, put two to a byte as ONNX Runtime holds them: the first in the low half.
extern "C" __global__ void tansor_halves(const unsigned char *values, unsigned char *out, unsigned long long count) {
    const unsigned long long stride = (unsigned long long)blockDim.x * gridDim.x;
    for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; 2 * i < count; i += stride)
        out[i] = (values[2 * i] & 15) | (2 * i + 1 < count ? values[2 * i + 1] << 4 : 0);
}
