// The compiler's default instructions: SSE2 on x86-64, NEON on 64-bit ARM.
#define SIMD_NAME kGenericSimd
#define SIMD_TEXT "generic"
#if defined(__x86_64__)
#define SIMD_ROWS 2
#else
#define SIMD_ROWS 6
#endif
#define SIMD_WIDTH 4
#include "decode/simd_loops.hpp"
