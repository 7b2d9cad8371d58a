#define SIMD_NAME kAvx512Simd
#define SIMD_TEXT "avx512"
#define SIMD_ROWS 8
#define SIMD_WIDTH 16
#include "decode/simd_loops.hpp"
