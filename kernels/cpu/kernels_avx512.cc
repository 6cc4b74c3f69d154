// The tile kernels for `avx512`; CMakeLists.txt has the instruction set that this unit is compiled for.
#define SMT_KERNELS avx512_kernels
#define SMT_KERNELS_NAME "avx512"
#include "engine.h"
