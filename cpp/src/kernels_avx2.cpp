#define KERNELS_NAME kAvx2Kernels
#define KERNELS_TEXT "avx2"
#define KERNELS_ROWS 6
#define KERNELS_WIDTH 8
#include "kernels_impl.hpp"
