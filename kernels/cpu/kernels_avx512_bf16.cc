// The tile kernels for `avx512_bf16`; CMakeLists.txt has the instruction set that this unit is compiled for.
#define SMT_KERNELS avx512_bf16_kernels
#define SMT_KERNELS_NAME "avx512_bf16"
#include "engine.h"
