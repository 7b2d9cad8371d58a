#include "decode/simd.hpp"

namespace scclip {

extern const Simd kGenericSimd;
#if defined(SCCLIP_X86_SIMD)
extern const Simd kAvx2Simd;
extern const Simd kAvx512Simd;
#endif

const Simd* const* AllSimd() {
    static const struct List {
        const Simd* sets[4] = {};
        List() {
            int count = 0;
            sets[count++] = &kGenericSimd;
#if defined(SCCLIP_X86_SIMD)
            __builtin_cpu_init();
            const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
            if (avx2) sets[count++] = &kAvx2Simd;
            if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {
                sets[count++] = &kAvx512Simd;
            }
#endif
        }
    } list;
    return list.sets;
}

const Simd& BestSimd() {
    const Simd* const* set = AllSimd();
    while (set[1] != nullptr) ++set;
    return **set;
}

}  // namespace scclip
