#include "scenario_queue.h"

#include <algorithm>
#include <cmath>

namespace smt::server {

void ScenarioQueue::set(const ScenarioPolicy& policy) {
  policy_ = policy;
  tokens_ = policy.rows_per_second;
  refilled_ = Clock::now();
}

void ScenarioQueue::push(Work* work, bool large) {
  work->sequence_ = sequence_++;
  work->queued_ = true;
  works(large).insert(work);
  waiting_rows_ += work->rows - work->next_row_;
  bytes_ += work->bytes;
}

void ScenarioQueue::remove(Work* work, bool large) {
  works(large).erase(work);
  work->queued_ = false;
  waiting_rows_ -= work->rows - work->next_row_;
  bytes_ -= work->bytes;
}

Work* ScenarioQueue::next() const {
  if (small_.empty()) return *large_.begin();
  if (large_.empty() || took_large_) return *small_.begin();
  return Sooner()(*large_.begin(), *small_.begin()) ? *large_.begin() : *small_.begin();
}

void ScenarioQueue::took(Work* work, bool large, int64_t rows) {
  took_large_ = large;
  if (work->next_row_ + rows == work->rows)
    remove(work, large);
  else
    waiting_rows_ -= rows;
  work->next_row_ += rows;
}

Work* ScenarioQueue::first() const {
  if (empty()) return nullptr;
  if (small_.empty()) return *large_.begin();
  if (large_.empty()) return *small_.begin();
  return std::min(*small_.begin(), *large_.begin(), Sooner());
}

Work* ScenarioQueue::last() const {
  if (empty()) return nullptr;
  if (small_.empty()) return *large_.rbegin();
  if (large_.empty()) return *small_.rbegin();
  return std::max(*small_.rbegin(), *large_.rbegin(), Sooner());
}

std::chrono::milliseconds ScenarioQueue::spend(int64_t rows, Clock::time_point now) {
  double rate = policy_.rows_per_second;
  if (rate <= 0) return std::chrono::milliseconds(0);
  double passed = std::chrono::duration<double>(now - refilled_).count();
  tokens_ = std::min(rate, tokens_ + std::max(passed, 0.0) * rate);
  refilled_ = now;
  // A request of more rows than a second's grant goes through when the bucket is full, and leaves a debt.
  double needed = std::min(static_cast<double>(rows), rate);
  if (tokens_ < needed) {
    return std::chrono::milliseconds(std::max(1L, std::lround(std::ceil((needed - tokens_) / rate * 1e3))));
  }
  tokens_ -= static_cast<double>(rows);
  return std::chrono::milliseconds(0);
}

}  // namespace smt::server
