/* The fastest code that the processor runs. TANSOR_DECODER names another one, for tests. */
#include <pthread.h>
#include <stdlib.h>

#include "tansor.h"

static const Decoder *chosen;

static bool is_wanted(const Decoder *decoder) {
    const char *name = getenv("TANSOR_DECODER");
    return !name || !*name || !strcmp(name, decoder->name);
}

static void choose(void) {
    chosen = &portable_decoder;
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma");
    bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vbmi2");
    if (has_avx2 && is_wanted(&avx2_decoder)) chosen = &avx2_decoder;
    if (has_avx512 && is_wanted(&avx512_decoder)) chosen = &avx512_decoder;
#endif
}

const Decoder *choose_decoder(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, choose);
    return chosen;
}
