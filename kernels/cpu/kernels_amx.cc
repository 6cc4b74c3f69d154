// The tile kernels for `amx`; CMakeLists.txt has the instruction set that this unit is compiled for.
#define SMT_KERNELS amx_kernels
#define SMT_KERNELS_NAME "amx"
#include "engine.h"
