#include "row_threads.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace smt::cpu {
namespace {

// Spins before a helper sleeps: about 20 µs, what a wake-up costs.
constexpr int kSpins = 4000;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

class Helpers {
 public:
  ~Helpers() {
    if (!mine()) {  // a fork has no threads to wait for
      for (std::thread& thread : threads_) thread.detach();
      return;
    }
    {
      std::lock_guard lock(mutex_);
      stopping_.store(true);
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  bool try_run(int64_t rows, int64_t parts, const std::function<void(int64_t, int64_t)>& body) {
    if (!mine()) return false;
    std::unique_lock busy(busy_, std::try_to_lock);
    if (!busy.owns_lock()) return false;
    while (static_cast<int64_t>(threads_.size()) < parts - 1) {
      threads_.emplace_back([this, seen = generation_.load()]() mutable { help(seen); });
    }
    body_ = &body;
    rows_ = rows;
    parts_ = parts;
    error_ = nullptr;
    next_.store(0, std::memory_order_relaxed);
    // Every helper reports, also one that finds no part left: none may still look at this call when the next begins.
    working_.store(static_cast<int64_t>(threads_.size()), std::memory_order_relaxed);
    {
      std::lock_guard lock(mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    if (sleepers_.load() > 0) wake_.notify_all();
    take_parts();
    while (working_.load(std::memory_order_acquire) > 0) pause();
    if (error_) std::rethrow_exception(error_);
    return true;
  }

 private:
  void take_parts() {
    for (int64_t part; (part = next_.fetch_add(1, std::memory_order_relaxed)) < parts_;) {
      try {
        (*body_)(cut(part), part + 1 == parts_ ? rows_ : cut(part + 1));
      } catch (...) {
        std::lock_guard lock(mutex_);
        if (!error_) error_ = std::current_exception();
      }
    }
  }

  // First row of a part. At multiples of 8: a row block is never cut into parts so low that their sums are made in
  // another order (gemm.h).
  int64_t cut(int64_t part) const { return rows_ * part / parts_ / 8 * 8; }

  void help(uint64_t seen) {
    for (;;) {
      for (int i = 0; i < kSpins && generation_.load(std::memory_order_acquire) == seen && !stopping_.load(); ++i)
        pause();
      if (generation_.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex_);
        sleepers_.fetch_add(1);
        wake_.wait(lock, [&] { return stopping_.load() || generation_.load(std::memory_order_acquire) != seen; });
        sleepers_.fetch_sub(1);
      }
      if (stopping_.load()) return;
      ++seen;  // one call at a time: none can have been missed
      take_parts();
      working_.fetch_sub(1, std::memory_order_release);
    }
  }

  // Whether this is the process that started the threads, and no fork of it.
  bool mine() const { return getpid() == process_; }

  const pid_t process_ = getpid();
  std::mutex busy_;  // held for the whole of a call
  // Guards error_, and with wake_ the changes of generation_ and stopping_ that sleeping helpers wait for.
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> threads_;
  // Raised (release) after the call's fields below are written; helpers read them after seeing it (acquire).
  std::atomic<uint64_t> generation_{0};
  std::atomic<int64_t> working_{0};  // helpers that have not finished this call; the caller waits for 0 (acquire)
  std::atomic<int64_t> next_{0};     // part to take; orders nothing else
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stopping_{false};
  const std::function<void(int64_t, int64_t)>* body_ = nullptr;
  int64_t rows_ = 0, parts_ = 0;
  std::exception_ptr error_;
};

}  // namespace

void split_rows(int64_t rows, int64_t threads, const std::function<void(int64_t, int64_t)>& body) {
  static Helpers helpers;
  if (threads <= 1 || !helpers.try_run(rows, threads, body)) body(0, rows);
}

}  // namespace smt::cpu
