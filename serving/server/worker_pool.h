// The threads that own compute, behind one bounded queue.
//
// gRPC's threads must not run template binaries: each would grow its own pools and caches (FACTS: 1-row requests at
// 1.5 ms), and their number is not ours to choose. They hand a job over and return.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace smt::server {

// One unit of work. An accepted job gets exactly one call of either run() or drop(), and may destroy itself in it.
class Job {
 public:
  using Clock = std::chrono::steady_clock;
  enum class Drop {
    kExpired,    // its deadline passed while it waited
    kCancelled,  // its client went away while it waited
    kShutdown,   // the pool ended first
  };

  virtual ~Job() = default;
  virtual void run() noexcept = 0;
  virtual void drop(Drop reason) noexcept = 0;
  // Called with the pool's lock held: must not block. Thread-safe.
  virtual bool cancelled() const noexcept = 0;
  virtual Clock::time_point deadline() const noexcept = 0;
  // Memory that it holds while it waits. Constant from submit() on.
  virtual size_t bytes() const noexcept = 0;
};

// Thread-safe.
class WorkerPool {
 public:
  struct Limits {
    size_t workers = 1;      // >= 1
    size_t queue_depth = 1;  // >= 1; jobs waiting, not running
    size_t queue_bytes = 1;  // >= 1; sum of bytes() of the jobs waiting; a single job is always let in
  };
  enum class Admission { kAccepted, kFull, kStopped };

  // `on_thread_start` runs first on every worker.
  WorkerPool(const Limits& limits, std::function<void()> on_thread_start = {});
  ~WorkerPool();  // stop()

  // Never blocks on compute. kAccepted: the pool calls run() or drop() on `job`, later or at once on another thread, so
  // `job` may be gone when this returns. Otherwise the caller still owns it, untouched. When the queue is full, jobs in
  // it that are expired or cancelled are dropped first (on this thread): the dead do not keep out the living.
  Admission submit(Job* job);

  size_t waiting() const;

  // Refuses new jobs, drops the waiting ones with kShutdown, waits for the running ones. Idempotent, not from a worker.
  void stop();

 private:
  void work();
  // Requires mutex_. Moves expired and cancelled jobs out of the queue.
  std::vector<std::pair<Job*, Job::Drop>> take_dead();
  bool full(size_t bytes) const;  // requires mutex_

  const Limits limits_;
  mutable std::mutex mutex_;  // guards queue_, queued_bytes_ and stopped_; never held during run() or drop()
  std::condition_variable available_;
  std::deque<Job*> queue_;
  size_t queued_bytes_ = 0;
  bool stopped_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace smt::server
