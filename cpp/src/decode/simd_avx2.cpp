#define SIMD_NAME kAvx2Simd
#define SIMD_TEXT "avx2"
#define SIMD_ROWS 6
#define SIMD_WIDTH 8
#include "decode/simd_loops.hpp"
