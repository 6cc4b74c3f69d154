// The compiled forms of the tile kernels, one for each instruction set, and the choice among them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "program.h"

namespace smt::cpu {

enum class Status : int { kOk = 0, kIdOutside = 1 };

// Plain functions of plain data, so that units compiled for other instruction sets share no inline function with the
// rest.
struct Kernels {
  const char* name;
  Weights16 weights16;  // what the kernels read in slots of bf16 programs
  // Bytes of memory that run() needs for tiles of `rows` rows (a multiple of 16).
  int64_t (*scratch_bytes)(const Program&, int64_t rows);
  // Computes rows [first, last) in tiles of at most `rows` rows. `scratch`: 64-byte aligned, of one thread.
  Status (*run)(const Program&, const Inputs&, int64_t first, int64_t last, int64_t rows, std::byte* scratch);
  // Multiplies cache-resident tiles `repetitions` times; returns the floating-point (int8: integer) operations done.
  double (*peak)(Precision, int64_t repetitions, std::byte* scratch);
  // Bytes of an activation in memory at this precision: 2 or 4.
  int64_t (*activation_bytes)(Precision);
};

const Kernels& portable_kernels();
const Kernels& emulated_amx_kernels();  // AMX's arithmetic in C++: for tests of the tile code on other machines
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
const Kernels& avx512_bf16_kernels();
const Kernels& amx_kernels();
#endif

// What this machine can run, fastest first; never empty ("portable" is always there). The first call asks the kernel
// for permission to use AMX, for the whole process.
const std::vector<const Kernels*>& available_kernels();

// The first of available_kernels(), or the one of that name.
// Throws std::invalid_argument, saying why, when there is none of that name here.
const Kernels& choose_kernels(const std::string& name);

// choose_kernels() of the environment variable SMT_KERNELS; unset: the first. What a process starts with.
// Throws std::invalid_argument that begins with the variable's name.
const Kernels& kernels_of_environment();

}  // namespace smt::cpu
