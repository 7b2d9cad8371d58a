#include "kernels.hpp"

namespace scclip {

extern const Kernels kGenericKernels;
#if defined(SCCLIP_X86_KERNELS)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

const Kernels* const* AllKernels() {
    static const struct List {
        const Kernels* sets[4] = {};
        List() {
            int count = 0;
            sets[count++] = &kGenericKernels;
#if defined(SCCLIP_X86_KERNELS)
            __builtin_cpu_init();
            const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
            if (avx2) sets[count++] = &kAvx2Kernels;
            if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {
                sets[count++] = &kAvx512Kernels;
            }
#endif
        }
    } list;
    return list.sets;
}

const Kernels& BestKernels() {
    const Kernels* const* set = AllKernels();
    while (set[1] != nullptr) ++set;
    return **set;
}

}  // namespace scclip
