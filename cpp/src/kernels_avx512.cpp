#define KERNELS_NAME kAvx512Kernels
#define KERNELS_TEXT "avx512"
#define KERNELS_ROWS 8
#define KERNELS_WIDTH 16
#include "kernels_impl.hpp"
