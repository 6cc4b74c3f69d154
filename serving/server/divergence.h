// How far a shadow's scores are from those of the stable version, on the requests that both have scored.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <vector>

namespace smt::server {

// Upper bounds of the histogram of |shadow - stable|; above the last there is one more bucket. The first counts what is
// equal to the bit.
inline constexpr std::array kDifferenceBounds{0.0, 1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3};
using DifferenceCounts = std::array<int64_t, kDifferenceBounds.size() + 1>;

// A task that both versions have, and where each keeps its scores.
struct TaskPair {
  std::string task;
  int64_t stable_head = 0;
  int64_t shadow_head = 0;
};

// Scores of the same rows by both versions, each [rows, its heads] row-major.
struct ScoredTwice {
  int64_t rows = 0;
  std::span<const float> stable;
  std::span<const float> shadow;
};

struct TaskDivergence {
  std::string task;
  double sum_difference = 0;  // of |shadow - stable|
  double max_difference = 0;
  double sum_stable = 0;
  double sum_shadow = 0;
};

// Since the two versions are compared.
struct DivergenceFigures {
  int64_t compared = 0;  // requests
  int64_t dropped = 0;   // requests: the queue was full
  int64_t failed = 0;    // requests that the shadow could not score
  int64_t rows = 0;
  std::string failure;             // why the last one failed
  DifferenceCounts differences{};  // of all tasks' scores
  std::vector<TaskDivergence> tasks;
};

// What one request added to the figures.
struct DivergenceStep {
  DifferenceCounts differences{};
  double sum_difference = 0;
};

// Thread-safe.
class Divergence {
 public:
  explicit Divergence(std::vector<TaskPair> tasks);

  // `scores` has heads for every pair.
  DivergenceStep compared(const ScoredTwice& scores);
  void dropped();
  void failed(const std::string& reason);
  DivergenceFigures figures() const;

 private:
  const std::vector<TaskPair> pairs_;
  mutable std::mutex mutex_;  // guards figures_
  DivergenceFigures figures_;
};

}  // namespace smt::server
