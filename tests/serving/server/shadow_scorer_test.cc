#include "shadow_scorer.h"

#include <gtest/gtest.h>

#include <thread>

#include "scheduler_fixture.h"

namespace smt::server {
namespace {

// Rows of the fixture's features.
class TestRequest final : public AnsweredRequest {
 public:
  explicit TestRequest(int64_t rows, const char* city = "city")
      : ages_(static_cast<size_t>(rows), 30.0F), cities_(static_cast<size_t>(rows), "a") {
    columns_ = {{.name = "age", .values = transform::FloatValues(ages_), .lengths = {}},
                {.name = city, .values = transform::StringValues(cities_), .lengths = {}}};
  }
  size_t bytes() const override { return 100; }
  RawRows decode() override {
    return {.rows = static_cast<int64_t>(ages_.size()), .context = {}, .candidates = columns_};
  }

 private:
  std::vector<float> ages_;
  std::vector<std::string_view> cities_;
  std::vector<transform::Column> columns_;
};

class ShadowScorerTest : public SchedulerTest {
 protected:
  // A shadow whose scores are all `value`, of the fixture's binary.
  std::shared_ptr<const ShadowRoute> shadow(float value) {
    return std::make_shared<const ShadowRoute>(
        ShadowRoute{.shadow = scenario("feed", value),
                    .percent = 100,
                    .compared_with = "v1",
                    .divergence = std::make_shared<Divergence>(std::vector<TaskPair>{{"click", 0, 0}})});
  }
  ShadowWork answered(const std::shared_ptr<const ShadowRoute>& route, int64_t rows, float score,
                      const char* city = "city") {
    return {.route = route,
            .request = std::make_unique<TestRequest>(rows, city),
            .scores = std::vector<float>(static_cast<size_t>(rows) * 2, score),
            .metrics = &metrics_.add("feed")};
  }
  double count(ShadowResult result) { return metrics_.add("feed").shadow(result).Value(); }
  // Until so many requests came to an end.
  void wait(double ended) {
    const auto until = Work::Clock::now() + 30s;
    while (count(ShadowResult::kCompared) + count(ShadowResult::kDropped) + count(ShadowResult::kFailed) < ended) {
      ASSERT_LT(Work::Clock::now(), until) << "requests are lost";
      std::this_thread::sleep_for(1ms);
    }
  }

  Metrics metrics_;
};

TEST_F(ShadowScorerTest, ScoresAFewRowsAtATimeAndCompares) {
  ShadowScorer scorer(start(2), {});
  auto route = shadow(0.75F);
  scorer.offer(answered(route, 50, 0.5F));
  wait(1);
  const DivergenceFigures found = route->divergence->figures();
  EXPECT_EQ(found.compared, 1);
  EXPECT_EQ(found.rows, 50);
  EXPECT_EQ(found.tasks[0].sum_difference, 50 * 0.25);
  EXPECT_EQ(found.tasks[0].sum_shadow, 50 * 0.75);
  std::vector<int64_t> rows;
  for (const BinaryRun& run : binary->runs(3)) rows.push_back(run.rows);
  EXPECT_EQ(rows, (std::vector<int64_t>{16, 16, 18}));
}

TEST_F(ShadowScorerTest, EqualScoresDivergeByNothing) {
  ShadowScorer scorer(start(1), {});
  auto route = shadow(0.5F);
  for (int i = 0; i < 10; ++i) scorer.offer(answered(route, 5, 0.5F));
  wait(10);
  EXPECT_EQ(route->divergence->figures().differences.front(), 50);
  EXPECT_EQ(route->divergence->figures().tasks[0].max_difference, 0);
}

TEST_F(ShadowScorerTest, NothingIsScoredWhileAWorkerIsWantedAndWhatDoesNotFitIsDropped) {
  Scheduler& scheduler = start(1);
  const ShadowWork one = answered(shadow(0.25F), 10, 0.5F);
  ShadowScorer scorer(scheduler, {.queue_bytes = 5 * one.bytes()});
  auto route = shadow(0.25F);
  auto busy = occupy(scenario("mail", 0.125F));
  auto waiting = work(scenario("mail", 0.125F), 16);
  submit(waiting.get());
  for (int i = 0; i < 20; ++i) scorer.offer(answered(route, 10, 0.5F));
  EXPECT_EQ(route->divergence->figures().dropped, 15);
  EXPECT_EQ(scorer.waiting_bytes(), 5 * one.bytes());
  binary->open();
  EXPECT_EQ(busy->fate(), Drop::kNone);
  EXPECT_EQ(waiting->fate(), Drop::kNone);
  wait(20);
  EXPECT_EQ(route->divergence->figures().compared, 5);
  EXPECT_EQ(scorer.waiting_bytes(), 0U);
  std::vector<BinaryRun> runs = binary->runs(7);
  ASSERT_EQ(runs.size(), 7U);
  for (size_t i = 0; i < runs.size(); ++i) EXPECT_EQ(runs[i].scores.front(), i < 2 ? 0.125F : 0.25F) << i;
}

TEST_F(ShadowScorerTest, RequestsAreServedWhileAShadowComputes) {
  Scheduler& scheduler = start(1);
  ShadowScorer scorer(scheduler, {});
  auto route = shadow(0.25F);
  binary->close();
  scorer.offer(answered(route, 40, 0.5F));
  binary->runs(1);  // the shadow is in its first step
  auto one = work(scenario("mail", 0.125F), 16);
  submit(one.get());
  EXPECT_EQ(binary->runs(2).at(1).scores.front(), 0.125F) << "it waits for nobody";
  binary->open();
  EXPECT_EQ(one->fate(), Drop::kNone);
  wait(1);
}

TEST_F(ShadowScorerTest, AShadowThatIsTakenAwayIsLetGoOfAtOnce) {
  Scheduler& scheduler = start(1);
  ShadowScorer scorer(scheduler, {});
  auto busy = occupy(scenario("mail", 0.125F));
  auto route = shadow(0.25F);
  std::weak_ptr<const LoadedSnapshot> weights = route->shadow;
  auto next = shadow(0.75F);
  for (int i = 0; i < 5; ++i) scorer.offer(answered(route, 10, 0.5F));
  scorer.offer(answered(next, 10, 0.5F));
  route.reset();
  EXPECT_TRUE(weights.expired()) << "a queue keeps it";
  binary->open();
  EXPECT_EQ(busy->fate(), Drop::kNone);
  wait(6);
  EXPECT_EQ(count(ShadowResult::kDropped), 5);
  EXPECT_EQ(next->divergence->figures().tasks[0].sum_difference, 10 * 0.25);
}

TEST_F(ShadowScorerTest, AShadowThatIsTakenAwayBetweenTwoStepsIsLetGoOfAfterTheFirst) {
  Scheduler& scheduler = start(1);
  ShadowScorer scorer(scheduler, {});
  auto route = shadow(0.25F);
  std::weak_ptr<const LoadedSnapshot> weights = route->shadow;
  binary->close();
  scorer.offer(answered(route, 100, 0.5F));
  binary->runs(1);
  route.reset();
  binary->open();
  wait(1);
  EXPECT_EQ(count(ShadowResult::kDropped), 1);
  EXPECT_TRUE(weights.expired());
  EXPECT_EQ(binary->runs(1).size(), 1U);
}

TEST_F(ShadowScorerTest, WhatAShadowCannotScoreIsCountedWithItsReason) {
  ShadowScorer scorer(start(1), {});
  auto route = shadow(0.25F);
  scorer.offer(answered(route, 5, 0.5F, "town"));
  wait(1);
  binary->on_run = [](const BinaryRun&) { throw std::runtime_error("no such op"); };
  EXPECT_NE(route->divergence->figures().failure.find("town"), std::string::npos);
  scorer.offer(answered(route, 5, 0.5F));
  wait(2);
  EXPECT_EQ(count(ShadowResult::kFailed), 2);
  EXPECT_EQ(route->divergence->figures().failure, "no such op");
}

TEST_F(ShadowScorerTest, StopDropsWhatWaits) {
  Scheduler& scheduler = start(1);
  ShadowScorer scorer(scheduler, {});
  auto busy = occupy(scenario("mail", 0.125F));
  auto route = shadow(0.25F);
  scorer.offer(answered(route, 5, 0.5F));
  scorer.stop();
  scorer.offer(answered(route, 5, 0.5F));
  EXPECT_EQ(count(ShadowResult::kDropped), 2);
  binary->open();
  EXPECT_EQ(busy->fate(), Drop::kNone);
}

TEST_F(ShadowScorerTest, UnderEverythingAtOnceNothingIsLost) {
  Scheduler& scheduler = start(2);
  ShadowScorer scorer(scheduler, {.queue_bytes = 20'000});
  constexpr int kEach = 300;
  std::vector<std::thread> threads;
  std::mutex mutex;  // guards route
  auto route = shadow(0.25F);
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&, i] {
      auto feed = scenario("s" + std::to_string(i), 0.5F);
      for (int each = 0; each < kEach; ++each) {
        auto one = work(feed, 1 + each % 70);
        submit(one.get());
        EXPECT_EQ(one->fate(), Drop::kNone);
        std::lock_guard lock(mutex);
        scorer.offer(answered(route, 1 + each % 70, 0.5F));
      }
    });
  }
  for (int i = 0; i < 50; ++i) {
    auto next = shadow(0.75F);
    std::this_thread::sleep_for(1ms);
    std::lock_guard lock(mutex);
    route = std::move(next);
  }
  for (std::thread& thread : threads) thread.join();
  wait(3 * kEach);
  EXPECT_EQ(count(ShadowResult::kFailed), 0);
}

}  // namespace
}  // namespace smt::server
