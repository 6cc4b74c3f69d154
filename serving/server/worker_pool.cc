#include "worker_pool.h"

#include <optional>
#include <utility>

namespace smt::server {
namespace {

std::optional<Job::Drop> dead(const Job& job, Job::Clock::time_point now) {
  if (now >= job.deadline()) return Job::Drop::kExpired;  // first: gRPC also cancels a call whose deadline passed
  if (job.cancelled()) return Job::Drop::kCancelled;
  return std::nullopt;
}

}  // namespace

WorkerPool::WorkerPool(const Limits& limits, std::function<void()> on_thread_start) : limits_(limits) {
  threads_.reserve(limits_.workers);
  for (size_t i = 0; i < limits_.workers; ++i) {
    threads_.emplace_back([this, on_thread_start] {
      if (on_thread_start) on_thread_start();
      work();
    });
  }
}

WorkerPool::~WorkerPool() { stop(); }

bool WorkerPool::full(size_t bytes) const {
  if (queue_.empty()) return false;
  return queue_.size() >= limits_.queue_depth || queued_bytes_ + bytes > limits_.queue_bytes;
}

std::vector<std::pair<Job*, Job::Drop>> WorkerPool::take_dead() {
  std::vector<std::pair<Job*, Job::Drop>> out;
  Job::Clock::time_point now = Job::Clock::now();
  std::erase_if(queue_, [&](Job* job) {
    auto reason = dead(*job, now);
    if (!reason) return false;
    queued_bytes_ -= job->bytes();
    out.emplace_back(job, *reason);
    return true;
  });
  return out;
}

WorkerPool::Admission WorkerPool::submit(Job* job) {
  size_t bytes = job->bytes();
  std::vector<std::pair<Job*, Job::Drop>> dropped;
  Admission admission = Admission::kAccepted;
  {
    std::lock_guard lock(mutex_);
    if (!stopped_ && full(bytes)) dropped = take_dead();
    if (stopped_) {
      admission = Admission::kStopped;
    } else if (full(bytes)) {
      admission = Admission::kFull;
    } else {
      queue_.push_back(job);
      queued_bytes_ += bytes;
    }
  }
  if (admission == Admission::kAccepted) available_.notify_one();
  for (auto& [dead_job, reason] : dropped) dead_job->drop(reason);
  return admission;
}

size_t WorkerPool::waiting() const {
  std::lock_guard lock(mutex_);
  return queue_.size();
}

void WorkerPool::work() {
  for (;;) {
    Job* job = nullptr;
    {
      std::unique_lock lock(mutex_);
      available_.wait(lock, [this] { return stopped_ || !queue_.empty(); });
      if (stopped_) return;  // stop() drops what is left
      job = queue_.front();
      queue_.pop_front();
      queued_bytes_ -= job->bytes();
    }
    if (auto reason = dead(*job, Job::Clock::now())) {
      job->drop(*reason);
    } else {
      job->run();
    }
  }
}

void WorkerPool::stop() {
  std::deque<Job*> left;
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    left = std::exchange(queue_, {});
    queued_bytes_ = 0;
  }
  available_.notify_all();
  for (Job* job : left) job->drop(Job::Drop::kShutdown);
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace smt::server
