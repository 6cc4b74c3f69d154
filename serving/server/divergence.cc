#include "divergence.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "text.h"

namespace smt::server {
namespace {

size_t bucket(double difference) {
  return static_cast<size_t>(std::ranges::lower_bound(kDifferenceBounds, difference) - kDifferenceBounds.begin());
}

}  // namespace

Divergence::Divergence(std::vector<TaskPair> tasks) : pairs_(std::move(tasks)) {
  for (const TaskPair& pair : pairs_) figures_.tasks.push_back({.task = pair.task});
}

DivergenceStep Divergence::compared(const ScoredTwice& scores) {
  DivergenceStep step;
  std::vector<TaskDivergence> tasks(pairs_.size());
  const size_t stable_heads = scores.stable.size() / static_cast<size_t>(scores.rows);
  const size_t shadow_heads = scores.shadow.size() / static_cast<size_t>(scores.rows);
  for (size_t i = 0; i < pairs_.size(); ++i) {
    size_t stable_at = static_cast<size_t>(pairs_[i].stable_head);
    size_t shadow_at = static_cast<size_t>(pairs_[i].shadow_head);
    for (int64_t row = 0; row < scores.rows; ++row, stable_at += stable_heads, shadow_at += shadow_heads) {
      const double stable = scores.stable[stable_at];
      const double shadow = scores.shadow[shadow_at];
      const double difference = std::abs(shadow - stable);
      ++step.differences[bucket(difference)];
      tasks[i].sum_difference += difference;
      tasks[i].max_difference = std::max(tasks[i].max_difference, difference);
      tasks[i].sum_stable += stable;
      tasks[i].sum_shadow += shadow;
    }
    step.sum_difference += tasks[i].sum_difference;
  }
  std::lock_guard lock(mutex_);
  ++figures_.compared;
  figures_.rows += scores.rows;
  for (size_t i = 0; i < step.differences.size(); ++i) figures_.differences[i] += step.differences[i];
  for (size_t i = 0; i < tasks.size(); ++i) {
    TaskDivergence& sum = figures_.tasks[i];
    sum.sum_difference += tasks[i].sum_difference;
    sum.max_difference = std::max(sum.max_difference, tasks[i].max_difference);
    sum.sum_stable += tasks[i].sum_stable;
    sum.sum_shadow += tasks[i].sum_shadow;
  }
  return step;
}

void Divergence::dropped() {
  std::lock_guard lock(mutex_);
  ++figures_.dropped;
}

void Divergence::failed(const std::string& reason) {
  std::string text = transform::printable(reason);  // it may show what a client sent
  std::lock_guard lock(mutex_);
  ++figures_.failed;
  figures_.failure = std::move(text);
}

DivergenceFigures Divergence::figures() const {
  std::lock_guard lock(mutex_);
  return figures_;
}

}  // namespace smt::server
