// Counts the calls inside the server, and closes the door for a drain.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace smt::server {

// Thread-safe. Because entering and closing take the same lock, no call can slip in once close() has returned, and
// wait_idle_until() cannot miss one.
class InflightGate {
 public:
  // False once closed: the call must be refused, and must not leave().
  bool enter() {
    std::lock_guard lock(mutex_);
    if (closed_) return false;
    ++inside_;
    return true;
  }
  // Once per successful enter().
  void leave() {
    std::lock_guard lock(mutex_);
    if (--inside_ == 0) idle_.notify_all();
  }
  void close() {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  bool closed() const {
    std::lock_guard lock(mutex_);
    return closed_;
  }
  // True when nobody is inside; false when some still were at `end`.
  bool wait_idle_until(std::chrono::steady_clock::time_point end) {
    std::unique_lock lock(mutex_);
    return idle_.wait_until(lock, end, [this] { return inside_ == 0; });
  }
  int64_t inside() const {
    std::lock_guard lock(mutex_);
    return inside_;
  }

 private:
  mutable std::mutex mutex_;  // guards inside_ and closed_
  std::condition_variable idle_;
  int64_t inside_ = 0;
  bool closed_ = false;
};

}  // namespace smt::server
