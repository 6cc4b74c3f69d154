// Computes one block: the rows of several works, of one template binary, in one call.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "transform.h"
#include "work.h"

namespace smt::server {

// Of one worker; keeps its buffers from block to block.
class BatchRunner {
 public:
  struct Timing {
    double transform_seconds = 0;
    double compute_seconds = 0;
    int64_t rows = 0;  // computed, padding included
    int64_t padding = 0;
    int64_t expired_rows = 0;  // rows of parts whose deadline had passed when compute began
  };

  // Scores `parts`, in which those of one snapshot lie side by side, into their works. What fails is marked on the
  // works of these parts alone: when a block of several works fails, each is tried by itself, so that one cannot take
  // the others with it.
  Timing run(std::span<const Part> parts) noexcept;

 private:
  void transform(std::span<const Part> parts);
  void compute(std::span<const Part> parts);
  void scatter(std::span<const Part> parts) const;
  // The parts whose deadline has not passed at `now`; the works of the others are given up. The scheduler looks when it
  // hands them out, but a worker may be kept from the core between that and compute.
  static std::vector<Part> give_up_expired(std::span<const Part> parts, Work::Clock::time_point now);
  void attempt(std::span<const Part> parts, Timing& timing);

  transform::Batch batch_;
  std::vector<int32_t> block_slot_;
  std::vector<int64_t> first_row_;  // in the batch, of each part
  std::vector<float> scores_;       // [rows, heads]
};

}  // namespace smt::server
