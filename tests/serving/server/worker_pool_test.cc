#include "worker_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <memory>
#include <set>
#include <string>

#include "inflight_gate.h"

namespace smt::server {
namespace {

using Clock = Job::Clock;
using Admission = WorkerPool::Admission;

// What became of the jobs of one test, in order.
class Record {
 public:
  void add(const std::string& event) {
    std::lock_guard lock(mutex_);
    events_.push_back(event);
    changed_.notify_all();
  }
  std::vector<std::string> wait_for(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(30), [&] { return events_.size() >= count; });
    return events_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> events_;
};

class TestJob final : public Job {
 public:
  TestJob(Record& record, std::string name) : record_(record), name_(std::move(name)) {}

  void run() noexcept override {
    if (work) work();
    record_.add("run " + name_);
  }
  void drop(Drop reason) noexcept override {
    static constexpr const char* kNames[] = {"expired ", "cancelled ", "shutdown "};
    record_.add(kNames[static_cast<int>(reason)] + name_);
  }
  bool cancelled() const noexcept override { return is_cancelled.load(); }
  Clock::time_point deadline() const noexcept override { return until; }
  size_t bytes() const noexcept override { return size; }

  std::function<void()> work;
  std::atomic<bool> is_cancelled{false};
  Clock::time_point until = Clock::time_point::max();
  size_t size = 1;

 private:
  Record& record_;
  std::string name_;
};

// A job that occupies one worker until it is released.
struct Blocker {
  explicit Blocker(Record& record) : job(record, "blocker") {
    job.work = [this] {
      running.count_down();
      release.wait();
    };
  }
  std::latch running{1};
  std::latch release{1};
  TestJob job;
};

WorkerPool::Limits limits(size_t workers, size_t depth, size_t bytes = 1 << 20) {
  return {.workers = workers, .queue_depth = depth, .queue_bytes = bytes};
}

TEST(WorkerPool, RunsInOrderOfArrival) {
  Record record;
  Blocker blocker(record);
  TestJob a(record, "a"), b(record, "b"), c(record, "c");
  WorkerPool pool(limits(1, 10));
  ASSERT_EQ(pool.submit(&blocker.job), Admission::kAccepted);
  for (Job* job : {&a, &b, &c}) ASSERT_EQ(pool.submit(job), Admission::kAccepted);
  blocker.release.count_down();
  EXPECT_EQ(record.wait_for(4), (std::vector<std::string>{"run blocker", "run a", "run b", "run c"}));
}

TEST(WorkerPool, RefusesAtOnceWhenFull) {
  Record record;
  Blocker blocker(record);
  TestJob a(record, "a"), b(record, "b"), c(record, "c");
  WorkerPool pool(limits(1, 2));
  ASSERT_EQ(pool.submit(&blocker.job), Admission::kAccepted);
  blocker.running.wait();
  EXPECT_EQ(pool.submit(&a), Admission::kAccepted);
  EXPECT_EQ(pool.submit(&b), Admission::kAccepted);
  EXPECT_EQ(pool.waiting(), 2U);
  EXPECT_EQ(pool.submit(&c), Admission::kFull);
  blocker.release.count_down();
  record.wait_for(3);
  EXPECT_EQ(pool.submit(&c), Admission::kAccepted) << "a refused job stays its owner's";
  EXPECT_EQ(record.wait_for(4).back(), "run c");
}

TEST(WorkerPool, BoundsBytesButLetsASingleJobIn) {
  Record record;
  Blocker blocker(record);
  TestJob big(record, "big"), small(record, "small");
  big.size = 1000;
  WorkerPool pool(limits(1, 10, 100));
  ASSERT_EQ(pool.submit(&blocker.job), Admission::kAccepted);
  blocker.running.wait();
  EXPECT_EQ(pool.submit(&big), Admission::kAccepted);
  EXPECT_EQ(pool.submit(&small), Admission::kFull);
  blocker.release.count_down();
  record.wait_for(2);
  EXPECT_EQ(pool.submit(&small), Admission::kAccepted);
  EXPECT_EQ(record.wait_for(3).back(), "run small");
}

TEST(WorkerPool, DropsExpiredAndCancelledBeforeCompute) {
  Record record;
  Blocker blocker(record);
  TestJob expired(record, "e"), cancelled(record, "c"), both(record, "b"), alive(record, "a");
  WorkerPool pool(limits(1, 10));
  ASSERT_EQ(pool.submit(&blocker.job), Admission::kAccepted);
  blocker.running.wait();
  expired.until = Clock::now();
  both.until = Clock::now();
  for (Job* job : {&expired, &cancelled, &both, &alive}) ASSERT_EQ(pool.submit(job), Admission::kAccepted);
  cancelled.is_cancelled = true;
  both.is_cancelled = true;
  blocker.release.count_down();
  EXPECT_EQ(record.wait_for(5),
            (std::vector<std::string>{"run blocker", "expired e", "cancelled c", "expired b", "run a"}));
}

TEST(WorkerPool, TheDeadDoNotKeepOutTheLiving) {
  Record record;
  Blocker blocker(record);
  TestJob expired(record, "e"), waiting(record, "w"), cancelled(record, "c"), late(record, "l"), refused(record, "r");
  WorkerPool pool(limits(1, 3));
  ASSERT_EQ(pool.submit(&blocker.job), Admission::kAccepted);
  blocker.running.wait();
  expired.until = Clock::now();
  for (Job* job : {&expired, &waiting, &cancelled}) ASSERT_EQ(pool.submit(job), Admission::kAccepted);
  cancelled.is_cancelled = true;
  EXPECT_EQ(pool.submit(&late), Admission::kAccepted);
  EXPECT_EQ(record.wait_for(2), (std::vector<std::string>{"expired e", "cancelled c"})) << "dropped while all are busy";
  EXPECT_EQ(pool.waiting(), 2U);
  blocker.release.count_down();
  EXPECT_EQ(record.wait_for(5),
            (std::vector<std::string>{"expired e", "cancelled c", "run blocker", "run w", "run l"}));
}

TEST(WorkerPool, StopDropsWhatWaitsAndFinishesWhatRuns) {
  Record record;
  Blocker blocker(record);
  TestJob a(record, "a"), late(record, "late");
  WorkerPool pool(limits(1, 10));
  ASSERT_EQ(pool.submit(&blocker.job), Admission::kAccepted);
  blocker.running.wait();
  ASSERT_EQ(pool.submit(&a), Admission::kAccepted);
  std::thread stopper([&] { pool.stop(); });
  EXPECT_EQ(record.wait_for(1), std::vector<std::string>{"shutdown a"}) << "while the running job still runs";
  EXPECT_EQ(pool.submit(&late), Admission::kStopped);
  blocker.release.count_down();
  stopper.join();
  EXPECT_EQ(record.wait_for(2), (std::vector<std::string>{"shutdown a", "run blocker"}));
  pool.stop();
}

TEST(WorkerPool, StartsEveryWorkerWithTheHook) {
  std::mutex mutex;
  std::set<std::thread::id> threads;
  {
    WorkerPool pool(limits(3, 1), [&] {
      std::lock_guard lock(mutex);
      threads.insert(std::this_thread::get_id());
    });
  }
  EXPECT_EQ(threads.size(), 3U);
}

// Many producers, jobs that delete themselves, some cancelled, some expired, a stop in the middle: every accepted job
// hears of its end exactly once, none twice, none never.
TEST(WorkerPool, EveryAcceptedJobIsAnsweredExactlyOnce) {
  struct Counts {
    std::atomic<int> run{0}, dropped{0}, alive{0};
  };
  class SelfDeleting final : public Job {
   public:
    SelfDeleting(Counts& counts, int kind) : counts_(counts), kind_(kind), made_(Clock::now()) { ++counts_.alive; }
    ~SelfDeleting() override { --counts_.alive; }
    void run() noexcept override { end(counts_.run); }
    void drop(Drop) noexcept override { end(counts_.dropped); }
    bool cancelled() const noexcept override { return kind_ == 1; }
    Clock::time_point deadline() const noexcept override { return kind_ == 2 ? made_ : Clock::time_point::max(); }
    size_t bytes() const noexcept override { return 10; }

   private:
    void end(std::atomic<int>& count) {
      ++count;
      delete this;
    }
    Counts& counts_;
    const int kind_;
    const Clock::time_point made_;
  };
  constexpr int kProducers = 4;
  Counts counts;
  std::atomic<int> accepted{0};
  WorkerPool pool(limits(3, 16, 100));
  std::vector<std::thread> producers;
  for (int p = 0; p < kProducers; ++p) {
    producers.emplace_back([&, p] {
      for (int i = 0;; ++i) {
        auto* job = new SelfDeleting(counts, (i + p) % 5);
        Admission admission = pool.submit(job);
        if (admission == Admission::kAccepted) {
          ++accepted;
          continue;
        }
        delete job;
        if (admission == Admission::kStopped) return;
        std::this_thread::yield();
      }
    });
  }
  while (counts.run < 500 || counts.dropped < 500) std::this_thread::yield();
  pool.stop();
  for (std::thread& producer : producers) producer.join();
  EXPECT_EQ(counts.run + counts.dropped, accepted);
  EXPECT_EQ(counts.alive, 0);
}

TEST(InflightGate, ClosesOnceAndWaitsForThoseInside) {
  InflightGate gate;
  ASSERT_TRUE(gate.enter());
  ASSERT_TRUE(gate.enter());
  gate.close();
  EXPECT_FALSE(gate.enter());
  EXPECT_EQ(gate.inside(), 2);
  EXPECT_FALSE(gate.wait_idle_until(Clock::now()));
  std::thread leaver([&] {
    gate.leave();
    gate.leave();
  });
  EXPECT_TRUE(gate.wait_idle_until(Clock::now() + std::chrono::seconds(30)));
  leaver.join();
  EXPECT_EQ(gate.inside(), 0);
}

}  // namespace
}  // namespace smt::server
