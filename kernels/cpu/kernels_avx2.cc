// The tile kernels for `avx2`; CMakeLists.txt has the instruction set that this unit is compiled for.
#define SMT_KERNELS avx2_kernels
#define SMT_KERNELS_NAME "avx2"
#include "engine.h"
