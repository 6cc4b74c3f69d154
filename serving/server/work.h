// What the scheduler queues: one scenario's candidates of one call.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "snapshot.h"
#include "transform.h"

namespace smt::server {

class ScenarioQueue;

// Why a work was not scored, or not in full.
enum class Drop : uint8_t {
  kNone,        // it was scored
  kFailed,      // the compiled code failed; Work::error() says how
  kNoMemory,    // no memory for its batch
  kExpired,     // its deadline passed while it waited
  kUnmeetable,  // its deadline would pass before its scores are computed
  kCancelled,   // its client went away while it waited
  kQueueFull,   // its scenario's queue is full
  kQuota,       // its scenario's rows per second are used up
  kServerFull,  // the server's queues are full, and its scenario's is the longest
  kShutdown,    // the server is draining
};

// Life: a call fills the fields, submits, and gets exactly one concluded() for each submitted work, in which it may
// destroy it. Between submit() and concluded() the fields are only read, but for `scores`, of which each worker writes
// the rows of its part, and what is private.
class Work {
 public:
  using Clock = std::chrono::steady_clock;

  virtual ~Work() = default;

  // On a worker, or on the thread that submits or cancels; never with a lock of the scheduler held.
  virtual void concluded(Drop drop) noexcept = 0;
  // Set by another thread at any time; true drops what is not computed yet. Called with the scheduler's lock held.
  virtual bool cancelled() const noexcept = 0;

  std::shared_ptr<const LoadedSnapshot> snapshot;
  transform::CheckedColumns columns;
  ScenarioQueue* queue = nullptr;  // its scenario's, of the scheduler
  Work* sibling = nullptr;         // next in the ring of works of one call that are to share a batch; null: none
  int64_t rows = 0;
  size_t bytes = 0;  // memory that it holds while it waits
  Clock::time_point arrived;
  Clock::time_point deadline = Clock::time_point::max();
  std::vector<float> scores;  // [rows, heads] row-major; sized by submit()

  // Valid in concluded().
  Clock::time_point begun() const { return begun_; }
  const std::string& error() const { return error_; }
  std::chrono::milliseconds retry_after() const { return retry_after_; }  // advice with kQueueFull, kQuota, kServerFull
  std::chrono::nanoseconds transform_time() const { return std::chrono::nanoseconds(transform_ns_.load()); }
  std::chrono::nanoseconds compute_time() const { return std::chrono::nanoseconds(compute_ns_.load()); }

 private:
  friend class Scheduler;
  friend class ScenarioQueue;
  friend class BatchRunner;

  // Ends `rows` of it. True for the caller that ended the last ones: it has to call conclude().
  // Release and acquire: what every part wrote (scores, error) happens before conclude().
  bool end(int64_t rows) { return rows_left_.fetch_sub(rows, std::memory_order_acq_rel) == rows; }
  // The first reason wins.
  bool give_up(Drop reason) {
    Drop none = Drop::kNone;
    return drop_.compare_exchange_strong(none, reason, std::memory_order_acq_rel);
  }
  void conclude() noexcept { concluded(drop_.load(std::memory_order_acquire)); }

  // Under the scheduler's lock.
  uint64_t sequence_ = 0;
  int64_t next_row_ = 0;  // rows before it are taken by workers
  bool queued_ = false;

  Clock::time_point begun_;                   // when its first part was taken; written under the scheduler's lock
  std::chrono::milliseconds retry_after_{0};  // written under the scheduler's lock
  std::string error_;                         // written by the one whose give_up() won
  std::atomic<int64_t> rows_left_{0};
  std::atomic<Drop> drop_{Drop::kNone};
  // Worker time of the batches that carried it; relaxed: read after end() ordered everything.
  std::atomic<int64_t> transform_ns_{0};
  std::atomic<int64_t> compute_ns_{0};
};

// Rows [first, first + rows) of a work, in one worker's hands.
struct Part {
  Work* work = nullptr;
  int64_t first = 0;
  int64_t rows = 0;
};

}  // namespace smt::server
