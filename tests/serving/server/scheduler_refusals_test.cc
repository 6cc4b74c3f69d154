// Works that are not computed: expired, cancelled, refused, or there when the scheduler stops.
#include <gtest/gtest.h>

#include <thread>

#include "batch_runner.h"
#include "scheduler_fixture.h"

namespace smt::server {
namespace {

TEST_F(SchedulerTest, ExpiredWorksAreNotComputed) {
  start(1);
  auto feed = scenario("feed", 1);
  auto busy = occupy(feed);
  auto late = work(feed, 16, 1ms);
  submit(late.get());
  std::this_thread::sleep_until(late->deadline);
  binary->open();
  EXPECT_EQ(late->fate(), Drop::kExpired);
  EXPECT_EQ(busy->fate(), Drop::kNone);
  EXPECT_EQ(binary->runs(1).size(), 1U);
  EXPECT_EQ(expired_rows, 0);
}

// As when the worker was kept from its core after it had taken them.
TEST_F(SchedulerTest, WorksThatExpireInAWorkersHandsAreNotComputed) {
  start(1);
  auto feed = scenario("feed", 1);
  auto mail = scenario("mail", 2);
  auto late = work(feed, 16, -1ms);
  auto good = work(feed, 16);
  auto later = work(mail, 16, -1ms);
  std::vector<Part> parts;
  for (Work* one : {static_cast<Work*>(late.get()), static_cast<Work*>(good.get()), static_cast<Work*>(later.get())}) {
    one->scores.resize(32);
    parts.push_back({one, 0, 16});
  }
  BatchRunner runner;
  BatchRunner::Timing timing = runner.run(parts);
  EXPECT_EQ(timing.rows, 16);
  EXPECT_EQ(timing.expired_rows, 0);
  EXPECT_TRUE(good->scored(1));
  EXPECT_EQ(binary->runs(1).size(), 1U);
  parts.erase(parts.begin() + 1);
  EXPECT_EQ(runner.run(parts).rows, 0);
  EXPECT_EQ(binary->runs(1).size(), 1U);
}

TEST_F(SchedulerTest, AWorkThatCannotBeInTimeIsRefusedAtOnce) {
  start(1);
  binary->on_run = [](const BinaryRun&) { std::this_thread::sleep_for(20ms); };
  auto feed = scenario("feed", 1);
  score(feed, 16);
  score(feed, 16);  // after it the cost is known
  auto hopeless = work(feed, 16, 5ms);
  submit(hopeless.get());
  EXPECT_EQ(hopeless->fate(), Drop::kUnmeetable);
  EXPECT_LT(Work::Clock::now(), hopeless->deadline);
  EXPECT_EQ(binary->runs(2).size(), 2U);
}

TEST_F(SchedulerTest, CancelledWorksLeaveTheQueue) {
  start(1);
  auto feed = scenario("feed", 1);
  auto busy = occupy(feed);
  auto gone = work(feed, 16);
  submit(gone.get());
  EXPECT_EQ(scheduler_->waiting(), 1U);
  gone->is_cancelled = true;
  scheduler_->cancel(gone.get());
  EXPECT_EQ(gone->times(), 1);  // before a worker is free
  EXPECT_EQ(gone->fate(), Drop::kCancelled);
  EXPECT_EQ(scheduler_->waiting(), 0U);
  auto before = work(feed, 16);
  before->is_cancelled = true;  // before it is submitted
  submit(before.get());
  EXPECT_EQ(before->fate(), Drop::kCancelled);
  scheduler_->cancel(busy.get());  // it runs: too late
  binary->open();
  EXPECT_EQ(busy->fate(), Drop::kNone);
}

// gRPC cancels a call when its deadline passes: that is no client that went away.
TEST_F(SchedulerTest, CancelledWorksThatHadExpiredAreExpired) {
  start(1);
  auto feed = scenario("feed", 1);
  auto busy = occupy(feed);
  auto late = work(feed, 16, 1ms);
  submit(late.get());
  std::this_thread::sleep_until(late->deadline);
  late->is_cancelled = true;
  scheduler_->cancel(late.get());
  EXPECT_EQ(late->fate(), Drop::kExpired);
  binary->open();
  EXPECT_EQ(busy->fate(), Drop::kNone);
}

TEST_F(SchedulerTest, ACancelledLargeWorkStopsAfterTheBlocksThatRun) {
  start(1, 16);
  auto feed = scenario("feed", 1);
  binary->close();
  auto large = work(feed, 160);
  submit(large.get());
  binary->runs(1);
  scheduler_->cancel(large.get());
  EXPECT_EQ(large->times(), 0);  // its first block still runs
  binary->open();
  EXPECT_EQ(large->fate(), Drop::kCancelled);
  EXPECT_EQ(binary->runs(1).size(), 1U);
}

TEST_F(SchedulerTest, AFullQueueRefusesWithAdvice) {
  start(1);
  scheduler_->configure({{"feed", {.queue_requests = 2}}}, {});
  auto feed = scenario("feed", 1);
  auto mail = scenario("mail", 2);
  auto busy = occupy(feed);
  std::vector<std::unique_ptr<TestWork>> works;
  for (int i = 0; i < 2; ++i) submit(works.emplace_back(work(feed, 1)).get());
  std::chrono::milliseconds advice{0};
  EXPECT_EQ(scheduler_->refuses(*work(feed, 1), advice), Drop::kQueueFull);
  EXPECT_GT(advice.count(), 0);
  auto refused = work(feed, 1);
  submit(refused.get());
  EXPECT_EQ(refused->fate(), Drop::kQueueFull);
  EXPECT_GT(refused->retry_after().count(), 0);
  auto other = work(mail, 1);  // has a queue of its own
  EXPECT_EQ(scheduler_->refuses(*other, advice), Drop::kNone);
  submit(other.get());
  binary->open();
  for (auto& one : works) EXPECT_EQ(one->fate(), Drop::kNone);
  EXPECT_EQ(other->fate(), Drop::kNone);
  EXPECT_EQ(busy->fate(), Drop::kNone);
}

TEST_F(SchedulerTest, RefusesForADeadlineByWhatIsKnownBeforeARequestIsRead) {
  start(1);
  scheduler_->configure({}, {.queue_ms = 3'600'000});
  auto feed = scenario("feed", 1);
  std::chrono::milliseconds advice{0};
  auto asks = [&](Work::Clock::duration within, int64_t rows, bool known = true) {
    auto one = work(feed, 1, within);
    one->rows = rows;
    if (!known) one->snapshot = nullptr;
    return scheduler_->refuses(*one, advice);
  };
  EXPECT_EQ(asks(-1ms, 0), Drop::kExpired);
  EXPECT_EQ(asks(59min, 64), Drop::kNone);
  EXPECT_EQ(asks(1ms, 64), Drop::kNone) << "nothing is known of what rows take";
  std::atomic<bool> slow{true};
  binary->on_run = [&](const BinaryRun& run) {
    if (slow) std::this_thread::sleep_for(run.rows * 2ms);
  };
  for (int64_t rows : {16, 64}) score(feed, rows);
  // What a block took is noted after its works have concluded.
  Drop answer = Drop::kNone;
  for (int i = 0; i < 30'000 && (answer = asks(100ms, 64)) == Drop::kNone; ++i) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(answer, Drop::kUnmeetable);
  EXPECT_EQ(asks(1ms, 0), Drop::kUnmeetable) << "it has a row at least";
  EXPECT_EQ(asks(59min, 64), Drop::kNone);
  EXPECT_EQ(asks(100ms, 64, false), Drop::kNone) << "whose template is not known";
  // Behind what waits.
  binary->close();
  auto busy = work(feed, 16);
  submit(busy.get());
  binary->runs(3);
  std::vector<std::unique_ptr<TestWork>> works;
  while (works.size() < 100 && (answer = asks(2s, 64)) == Drop::kNone) {
    submit(works.emplace_back(work(feed, 64, 2s)).get());
  }
  EXPECT_EQ(answer, Drop::kUnmeetable);
  EXPECT_GT(works.size(), 1U);
  slow = false;
  binary->open();
  EXPECT_EQ(busy->fate(), Drop::kNone);
  for (auto& one : works) one->fate();
}

TEST_F(SchedulerTest, ExpiredWorksMakeRoom) {
  start(1);
  scheduler_->configure({}, {.queue_requests = 1});
  auto feed = scenario("feed", 1);
  auto busy = occupy(feed);
  auto late = work(feed, 1, 1ms);
  submit(late.get());
  std::this_thread::sleep_until(late->deadline);
  auto fresh = work(feed, 1);
  submit(fresh.get());
  EXPECT_EQ(late->fate(), Drop::kExpired);
  binary->open();
  EXPECT_EQ(fresh->fate(), Drop::kNone);
  EXPECT_EQ(busy->fate(), Drop::kNone);
}

TEST_F(SchedulerTest, AQueueHoldsNoMoreWorkThanItsTime) {
  start(1);
  scheduler_->configure({}, {.queue_ms = 30});
  binary->on_run = [](const BinaryRun&) { std::this_thread::sleep_for(20ms); };
  auto feed = scenario("feed", 1);
  score(feed, 64);
  score(feed, 64);  // after it the cost is known
  std::vector<std::unique_ptr<TestWork>> works;
  for (int i = 0; i < 10; ++i) submit(works.emplace_back(work(feed, 64)).get());
  int64_t full = 0;
  for (auto& one : works) full += one->fate() == Drop::kQueueFull ? 1 : 0;
  EXPECT_GE(full, 5);
  EXPECT_LE(full, 8);
}

TEST_F(SchedulerTest, TheLongestQueuePaysForTheServersMemory) {
  start(1, 64, 8);  // bytes; each work has one
  auto feed = scenario("feed", 1);
  auto mail = scenario("mail", 2);
  auto busy = occupy(feed);
  std::vector<std::unique_ptr<TestWork>> flood;
  for (int i = 0; i < 9; ++i) submit(flood.emplace_back(work(feed, 1)).get());
  EXPECT_EQ(flood.back()->fate(), Drop::kServerFull);
  auto one = work(mail, 1);
  submit(one.get());
  EXPECT_EQ(flood[7]->fate(), Drop::kServerFull);  // the last that had been let in
  EXPECT_GT(flood[7]->retry_after().count(), 0);
  binary->open();
  EXPECT_EQ(one->fate(), Drop::kNone);
  for (int i = 0; i < 7; ++i) EXPECT_EQ(flood[static_cast<size_t>(i)]->fate(), Drop::kNone);
  EXPECT_EQ(busy->fate(), Drop::kNone);
}

TEST_F(SchedulerTest, QuotasAreOfRowsPerSecond) {
  start(1);
  scheduler_->configure({{"feed", {.rows_per_second = 100}}}, {});
  auto feed = scenario("feed", 1);
  std::vector<std::unique_ptr<TestWork>> works;
  for (int i = 0; i < 3; ++i) {
    submit(works.emplace_back(work(feed, 40)).get());
    works.back()->fate();
  }
  EXPECT_EQ(works[0]->fate(), Drop::kNone);
  EXPECT_EQ(works[1]->fate(), Drop::kNone);
  EXPECT_EQ(works[2]->fate(), Drop::kQuota);
  EXPECT_NEAR(static_cast<double>(works[2]->retry_after().count()), 200, 60);
}

TEST_F(SchedulerTest, StoppingConcludesWhatWaits) {
  start(1);
  auto feed = scenario("feed", 1);
  auto busy = occupy(feed);
  auto waits = work(feed, 1);
  submit(waits.get());
  std::thread stopper([&] { scheduler_->stop(); });
  EXPECT_EQ(waits->fate(), Drop::kShutdown);
  binary->open();
  stopper.join();
  EXPECT_EQ(busy->fate(), Drop::kNone);
  auto late = work(feed, 1);
  submit(late.get());
  EXPECT_EQ(late->fate(), Drop::kShutdown);
  std::chrono::milliseconds advice{0};
  EXPECT_EQ(scheduler_->refuses(*work(feed, 1), advice), Drop::kShutdown);
}

}  // namespace
}  // namespace smt::server
