// Runs a program on the calling thread, with memory that the thread keeps.
#pragma once

#include <cstddef>
#include <cstdint>

#include "compiled_program.h"
#include "kernels.h"

namespace smt::cpu {

// Uninitialised bytes, 64-byte aligned. Throws std::bad_alloc.
class AlignedMemory {
 public:
  AlignedMemory() = default;
  explicit AlignedMemory(int64_t bytes);
  ~AlignedMemory();
  AlignedMemory(AlignedMemory&& other) noexcept;
  AlignedMemory& operator=(AlignedMemory&& other) noexcept;

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Memory for tiles that belongs to the calling thread; it grows to what was needed at most, so that after the first
// call of each program nothing is allocated.
std::byte* thread_scratch(int64_t bytes);

// Rows of a tile: as many as leave the activations in the second-level cache beside a stream of weights, and nearly
// equal over the rows of a call.
int64_t tile_rows(const Program& program, const Kernels& kernels, int64_t rows);

// Computes rows [first, last) of the call. `in` fits the program but for its ids, which are checked as they are read.
// Throws std::out_of_range when an id lies outside the pool; rows of the call may have been written then.
void execute(const CompiledProgram& program, const Kernels& kernels, const Inputs& in, int64_t first, int64_t last);

}  // namespace smt::cpu
