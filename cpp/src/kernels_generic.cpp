// The compiler's default instructions: SSE2 on x86-64, NEON on 64-bit ARM.
#define KERNELS_NAME kGenericKernels
#define KERNELS_TEXT "generic"
#if defined(__x86_64__)
#define KERNELS_ROWS 2
#else
#define KERNELS_ROWS 6
#endif
#define KERNELS_WIDTH 4
#include "kernels_impl.hpp"
