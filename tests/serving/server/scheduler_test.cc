#include "scheduler.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "batch_runner.h"
#include "scheduler_fixture.h"

namespace smt::server {
namespace {

TEST_F(SchedulerTest, ScoresAWork) {
  start(2);
  auto feed = scenario("feed", 0.25F);
  auto one = work(feed, 5);
  submit(one.get());
  EXPECT_EQ(one->fate(), Drop::kNone);
  EXPECT_TRUE(one->scored(0.25F));
  EXPECT_GE(one->begun(), one->arrived);
}

TEST_F(SchedulerTest, TellsWhatWaitsOfEachScenario) {
  Scheduler& scheduler = start(1, 64);
  auto feed = scenario("feed", 0.25F);
  auto busy = occupy(feed);
  auto one = work(feed, 6);
  auto other = work(feed, 100);
  submit(one.get());
  submit(other.get());
  auto idle = work(scenario("mail", 0.5F), 1);  // makes its queue
  auto found = scheduler.backlogs();
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].scenario, "feed");
  EXPECT_EQ(found[0].requests, 2);
  EXPECT_EQ(found[0].rows, 106);
  EXPECT_EQ(found[1].scenario, "mail");
  EXPECT_EQ(found[1].requests, 0);
  binary->open();
  for (TestWork* each : {busy.get(), one.get(), other.get()}) EXPECT_EQ(each->fate(), Drop::kNone);
  EXPECT_EQ(scheduler.backlogs()[0].rows, 0);
}

TEST_F(SchedulerTest, LargeWorksAreCutIntoBlocks) {
  start(1, 64);
  auto one = work(scenario("feed", 0.25F), 200);
  submit(one.get());
  EXPECT_EQ(one->fate(), Drop::kNone);
  EXPECT_TRUE(one->scored(0.25F));
  std::vector<int64_t> rows;
  for (const BinaryRun& run : binary->runs(4)) rows.push_back(run.rows);
  EXPECT_EQ(rows, (std::vector<int64_t>{64, 64, 64, 8}));
}

TEST_F(SchedulerTest, LargeWorksRunOnSeveralWorkersAtOnce) {
  start(2, 64);
  binary->close();
  auto one = work(scenario("feed", 0.25F), 128);
  submit(one.get());
  EXPECT_EQ(binary->runs(2).size(), 2U);  // both began before either ended
  binary->open();
  EXPECT_EQ(one->fate(), Drop::kNone);
  EXPECT_TRUE(one->scored(0.25F));
}

TEST_F(SchedulerTest, WhatWaitsIsBatched) {
  start(1, 64);
  auto feed = scenario("feed", 0.25F);
  auto busy = occupy(feed);
  std::vector<std::unique_ptr<TestWork>> works;
  for (int i = 0; i < 10; ++i) submit(works.emplace_back(work(feed, 6)).get());
  binary->open();
  for (auto& one : works) EXPECT_EQ(one->fate(), Drop::kNone);
  EXPECT_EQ(binary->runs(2).at(1).rows, 60);
  EXPECT_EQ(padding, 0);
}

// A worker that was just about to wait may take some of them: only what the thread that brings them computes is told.
TEST_F(SchedulerTest, SmallWorksOfATurnAreBegunTogether) {
  Scheduler& scheduler = start(2, 64);
  auto feed = scenario("feed", 0.25F);
  std::vector<std::unique_ptr<TestWork>> works;
  std::atomic<std::thread::id> poller_id;
  std::atomic<int> runs{0};
  binary->on_run = [&](const BinaryRun&) { runs += std::this_thread::get_id() == poller_id.load() ? 1 : 0; };
  std::jthread poller([&] {
    poller_id = std::this_thread::get_id();
    Scheduler::begin_turns();
    for (int i = 0; i < 5; ++i) submit(works.emplace_back(work(feed, 3)).get());
    EXPECT_EQ(runs, 0);
    scheduler.end_turn();
    EXPECT_LE(runs, 1);
    scheduler.end_turn();  // of a turn that brought nothing
  });
  poller.join();
  for (auto& one : works) {
    EXPECT_EQ(one->fate(), Drop::kNone);
    EXPECT_TRUE(one->scored(0.25F));
  }
}

TEST_F(SchedulerTest, AWorkOfARowBlockDoesNotWaitForTheTurnsEnd) {
  Scheduler& scheduler = start(1, 64);
  auto feed = scenario("feed", 0.25F);
  auto large = work(feed, cpu::kRowBlock);
  auto small = work(feed, 1);
  std::jthread poller([&] {
    Scheduler::begin_turns();
    submit(large.get());
    EXPECT_EQ(large->fate(), Drop::kNone);
    submit(small.get());
    scheduler.end_turn();
  });
  EXPECT_EQ(small->fate(), Drop::kNone);
}

TEST_F(SchedulerTest, ABlockIsAShareOfWhatWaitsAlsoWhenOtherWorkersAreBusy) {
  start(2, 128);
  auto feed = scenario("feed", 0.25F);
  Blocker first(*this);
  Blocker second(*this);
  std::vector<std::unique_ptr<TestWork>> works;
  for (int i = 0; i < 10; ++i) submit(works.emplace_back(work(feed, 16)).get());
  first.open();
  EXPECT_EQ(binary->runs(1).at(0).rows, 80);
  second.open();
  for (auto& one : works) EXPECT_EQ(one->fate(), Drop::kNone);
}

TEST_F(SchedulerTest, ScenariosShareABatchWhereThatCostsNoPadding) {
  start(1, 64);
  Blocker busy(*this);
  auto one = work(scenario("feed", 0.25F), 32);
  auto two = work(scenario("mail", 0.5F), 20);
  submit(one.get());
  submit(two.get());
  busy.open();
  EXPECT_EQ(one->fate(), Drop::kNone);
  EXPECT_EQ(two->fate(), Drop::kNone);
  EXPECT_TRUE(one->scored(0.25F));
  EXPECT_TRUE(two->scored(0.5F));
  EXPECT_EQ(binary->runs(1).at(0).rows, 52);
}

TEST_F(SchedulerTest, ScenariosDoNotShareABatchThatTakesLong) {
  start(1, 64);
  auto feed = scenario("feed", 0.25F);
  binary->on_run = [](const BinaryRun&) { std::this_thread::sleep_for(5ms); };  // 80 microseconds a row
  score(feed, 64);
  Blocker busy(*this);  // after the figures of the work before are noted: the worker is the only one
  auto one = work(feed, 16);
  auto two = work(scenario("mail", 0.5F), 16);
  submit(one.get());
  submit(two.get());
  busy.open();
  EXPECT_EQ(one->fate(), Drop::kNone);
  EXPECT_EQ(two->fate(), Drop::kNone);
  EXPECT_EQ(binary->runs(3).at(1).rows, 16);
}

TEST_F(SchedulerTest, SiblingsShareABatchWhateverThePadding) {
  start(1, 64);
  std::vector<std::unique_ptr<TestWork>> works;
  std::vector<Work*> ring;
  for (int i = 0; i < 3; ++i) {
    auto snapshot = scenario("scenario" + std::to_string(i), static_cast<float>(i));
    ring.push_back(works.emplace_back(work(snapshot, 1)).get());
  }
  for (size_t i = 0; i < ring.size(); ++i) ring[i]->sibling = ring[(i + 1) % ring.size()];
  scheduler_->submit(ring);
  for (size_t i = 0; i < works.size(); ++i) {
    EXPECT_EQ(works[i]->fate(), Drop::kNone);
    EXPECT_TRUE(works[i]->scored(static_cast<float>(i)));
  }
  EXPECT_EQ(binary->runs(1).size(), 1U);
  EXPECT_EQ(padding, 30);
}

TEST_F(SchedulerTest, ABinaryThatDoesNotMixGetsOneSnapshotACall) {
  binary = std::make_shared<ScriptedBinary>(views_manifest());
  start(1, 64);
  auto feed = scenario("feed", 0.25F);
  auto mail = scenario("mail", 0.5F);
  auto newer = scenario("feed", 0.75F);  // the version after a swap, in the same queue
  auto busy = occupy(feed);
  std::vector<std::unique_ptr<TestWork>> works;
  for (const auto& snapshot : {feed, feed, newer}) submit(works.emplace_back(work(snapshot, 16)).get());
  Work* siblings[] = {works.emplace_back(work(mail, 16)).get(), works.emplace_back(work(feed, 16)).get()};
  siblings[0]->sibling = siblings[1];
  siblings[1]->sibling = siblings[0];
  scheduler_->submit(siblings);
  binary->open();
  for (auto& one : works) EXPECT_EQ(one->fate(), Drop::kNone);
  EXPECT_TRUE(works[2]->scored(0.75F));
  EXPECT_TRUE(works[3]->scored(0.5F));
  EXPECT_TRUE(works[4]->scored(0.25F));
  for (const BinaryRun& run : binary->runs(4)) {
    for (float score : run.scores) EXPECT_EQ(score, run.scores.front());
  }
}

TEST_F(SchedulerTest, EarliestDeadlineFirst) {
  start(1, 16);
  auto feed = scenario("feed", 0);
  auto busy = occupy(feed);
  std::vector<std::unique_ptr<TestWork>> works;
  std::vector<int> seconds{0, 300, 100, 200};  // 0: none
  for (int within : seconds) {
    auto marked = scripted_snapshot(binary, "feed", static_cast<float>(within));
    works.push_back(work(marked, 16, within == 0 ? 1h : std::chrono::seconds(within)));
    submit(works.back().get());
  }
  binary->open();
  EXPECT_EQ(order(4), (std::vector<float>{100, 200, 300, 0}));
  for (auto& one : works) EXPECT_EQ(one->fate(), Drop::kNone);
}

TEST_F(SchedulerTest, SmallWorksWaitForOneBlockOfALargeOne) {
  start(1, 16);
  auto large = scenario("feed", 1);
  auto small = scenario("feed", 2);
  auto busy = occupy(large);
  auto long_one = work(large, 64);
  auto short_one = work(small, 16);
  submit(long_one.get());
  submit(short_one.get());
  binary->open();
  EXPECT_EQ(order(5), (std::vector<float>{1, 2, 1, 1, 1}));
  EXPECT_EQ(long_one->fate(), Drop::kNone);
  EXPECT_EQ(short_one->fate(), Drop::kNone);
}

TEST_F(SchedulerTest, ScenariosShareByWeight) {
  start(1, 16);
  scheduler_->configure({{"heavy", {.weight = 3}}}, {});
  auto heavy = scenario("heavy", 3);
  auto light = scenario("light", 1);
  auto busy = occupy(light);
  std::vector<std::unique_ptr<TestWork>> works;
  for (int i = 0; i < 40; ++i) submit(works.emplace_back(work(light, 16)).get());
  for (int i = 0; i < 40; ++i) submit(works.emplace_back(work(heavy, 16)).get());
  binary->open();
  std::vector<float> first = order(80);
  first.resize(40);
  EXPECT_NEAR(std::count(first.begin(), first.end(), 3.0F), 30, 4);  // costs are being learnt
  for (auto& one : works) EXPECT_EQ(one->fate(), Drop::kNone);
}

TEST_F(SchedulerTest, ABurstOfOneScenarioDoesNotDelayAnother) {
  start(1, 16);
  auto burst = scenario("burst", 1);
  auto quiet = scenario("quiet", 2);
  auto busy = occupy(burst);
  std::vector<std::unique_ptr<TestWork>> works;
  for (int i = 0; i < 100; ++i) submit(works.emplace_back(work(burst, 16)).get());
  auto one = work(quiet, 16);
  submit(one.get());
  binary->open();
  EXPECT_EQ(one->fate(), Drop::kNone);
  std::vector<float> all = order(101);
  EXPECT_LE(std::find(all.begin(), all.end(), 2.0F) - all.begin(), 1);
  for (auto& other : works) EXPECT_EQ(other->fate(), Drop::kNone);
}

TEST_F(SchedulerTest, HigherPriorityGoesFirst) {
  start(1, 16);
  scheduler_->configure({{"urgent", {.priority = 1}}, {"idle", {.priority = -1}}}, {});
  auto urgent = scenario("urgent", 3);
  auto normal = scenario("normal", 2);
  auto idle = scenario("idle", 1);
  auto busy = occupy(normal);
  std::vector<std::unique_ptr<TestWork>> works;
  for (const auto& snapshot : {idle, idle, normal, normal, urgent, urgent}) {
    submit(works.emplace_back(work(snapshot, 16)).get());
  }
  binary->open();
  EXPECT_EQ(order(6), (std::vector<float>{3, 3, 2, 2, 1, 1}));
  for (auto& one : works) EXPECT_EQ(one->fate(), Drop::kNone);
}

TEST_F(SchedulerTest, TellsWhetherThereIsTimeWithinATime) {
  start(1);
  EXPECT_TRUE(scheduler_->wait_idle({}, 1h));
  Blocker busy(*this);
  EXPECT_FALSE(scheduler_->wait_idle({}, 1ms));
  std::thread later([&] { EXPECT_TRUE(scheduler_->wait_idle({}, 1h)); });
  busy.open();
  later.join();
  std::stop_source stop;
  stop.request_stop();
  EXPECT_FALSE(scheduler_->wait_idle(stop.get_token(), 1h));
}

TEST_F(SchedulerTest, AFailureIsOfItsWorkAlone) {
  start(1);
  binary->on_run = [](const BinaryRun& run) {
    if (std::find(run.scores.begin(), run.scores.end(), 13.0F) != run.scores.end()) throw std::runtime_error("broken");
  };
  auto good = scenario("good", 1);
  auto bad = scenario("bad", 13);
  auto busy = occupy(good);
  auto one = work(good, 16);
  auto two = work(bad, 16);
  auto three = work(good, 16);
  for (Work* each : {one.get(), two.get(), three.get()}) submit(each);
  binary->open();
  EXPECT_EQ(one->fate(), Drop::kNone);
  EXPECT_TRUE(one->scored(1));
  EXPECT_EQ(two->fate(), Drop::kFailed);
  EXPECT_EQ(two->error(), "broken");
  EXPECT_EQ(three->fate(), Drop::kNone);
}

// Whatever comes at once, every work is concluded exactly once, and scored by its own scenario's weights.
TEST_F(SchedulerTest, EveryWorkIsConcludedOnce) {
  start(3, 32, 200);
  scheduler_->configure({{"s1", {.weight = 4, .queue_requests = 20}}, {"s2", {.priority = 1}}}, {.queue_requests = 50});
  std::vector<std::shared_ptr<const LoadedSnapshot>> snapshots;
  for (int i = 0; i < 5; ++i) snapshots.push_back(scenario("s" + std::to_string(i), static_cast<float>(i)));
  std::atomic<int64_t> scored{0};
  auto client = [&](unsigned seed) {
    std::minstd_rand random(seed);
    std::vector<std::pair<std::unique_ptr<TestWork>, size_t>> mine;
    for (int i = 0; i < 400; ++i) {
      size_t of = random() % snapshots.size();
      auto within = random() % 4 == 0 ? std::chrono::microseconds(random() % 3000) : Work::Clock::duration(1h);
      mine.emplace_back(work(snapshots[of], 1 + static_cast<int64_t>(random() % 100), within), of);
      submit(mine.back().first.get());
      if (random() % 5 == 0) {
        auto& [other, unused] = mine[random() % mine.size()];
        other->is_cancelled = true;
        scheduler_->cancel(other.get());
      }
      if (random() % 16 == 0) mine.back().first->fate();
    }
    for (auto& [one, of] : mine) {
      if (one->fate() != Drop::kNone) continue;
      EXPECT_TRUE(one->scored(static_cast<float>(of)));
      ++scored;
    }
    for (auto& [one, of] : mine) EXPECT_EQ(one->times(), 1);
  };
  std::vector<std::thread> clients;
  for (unsigned seed = 1; seed <= 4; ++seed) clients.emplace_back(client, seed);
  for (std::thread& thread : clients) thread.join();
  EXPECT_GT(scored, 0);
  EXPECT_EQ(scheduler_->waiting(), 0U);
}

}  // namespace
}  // namespace smt::server
