// The tile kernels for `portable`; CMakeLists.txt has the instruction set that this unit is compiled for.
#define SMT_KERNELS portable_kernels
#define SMT_KERNELS_NAME "portable"
#include "engine.h"
