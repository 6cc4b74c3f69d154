// A parsed tile program: owns what `Program` points to.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "program.h"

namespace smt::cpu {

// What the integers of a program begin with (FORMAT of kernels/cpu/program.py).
inline constexpr int64_t kProgramFormat = 1;

// Immutable after construction, so any number of threads may use it at once.
class CompiledProgram {
 public:
  // `values` are the integers that kernels/cpu/program.py emits.
  // Throws std::invalid_argument, naming the place, for whatever is no program.
  explicit CompiledProgram(std::span<const int64_t> values);
  CompiledProgram(const CompiledProgram&) = delete;
  CompiledProgram& operator=(const CompiledProgram&) = delete;

  const Program& program() const { return parts_.program; }
  const std::vector<int64_t>& source() const { return source_; }

  // Fills one slot of an arena: `slab` [slab_elements] float -> `slot` [packed_bytes], 64-byte aligned. Runs when a
  // snapshot is loaded, never per call. `weights16`: what the kernels that will read it take.
  void pack(std::span<const float> slab, Weights16 weights16, std::byte* slot) const;

  struct Parts {
    Program program{};
    std::vector<Buffer> buffers;
    std::vector<Step> steps;
    std::deque<std::vector<Layer>> layers;  // steps point into them
    std::vector<Matrix> matrices;
    std::vector<Vector> vectors;
  };

 private:
  std::vector<int64_t> source_;
  Parts parts_;
};

}  // namespace smt::cpu
