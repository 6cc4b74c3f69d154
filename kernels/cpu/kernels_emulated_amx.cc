// The tile kernels for AMX with the tiles' instructions emulated: tests run this where the CPU has no AMX.
#define SMT_EMULATE_AMX
#define SMT_KERNELS emulated_amx_kernels
#define SMT_KERNELS_NAME "emulated_amx"
#include "engine.h"
