#include "schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>

namespace smt::loadgen {
namespace {

// Two streams, three to one, with payloads 0..4 and 5..6.
Plan plan_of(Mode mode, double rate) {
  Plan plan;
  plan.seed = 11;
  plan.streams.resize(2);
  plan.streams[0].weight = 3;
  plan.streams[0].payload_count = 5;
  plan.streams[1].weight = 1;
  plan.streams[1].first_payload = 5;
  plan.streams[1].payload_count = 2;
  Source source;
  source.mode = mode;
  source.rate = rate;
  source.stream_count = 2;
  plan.sources.push_back(source);
  return plan;
}

// All arrivals before `end` of every worker, in order.
std::vector<Arrival> arrivals(const Plan& plan, int workers, Nanos end) {
  std::vector<Arrival> all;
  for (int worker = 0; worker < workers; ++worker) {
    Schedule schedule(plan, 0, worker, workers);
    for (auto next = schedule.next(); next && next->at < end; next = schedule.next()) all.push_back(*next);
  }
  std::stable_sort(all.begin(), all.end(), [](const Arrival& a, const Arrival& b) { return a.at < b.at; });
  return all;
}

TEST(Schedule, FixedGapsAreTheSameForAnyNumberOfWorkers) {
  Plan plan = plan_of(Mode::kFixed, 300);
  for (int workers : {1, 2, 7}) {
    std::vector<Arrival> found = arrivals(plan, workers, 10 * kSecond);
    ASSERT_EQ(found.size(), 3000U);
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_NEAR(static_cast<double>(found[i].at), static_cast<double>(i) * 1e9 / 300, 1);
    }
  }
}

TEST(Schedule, PoissonGapsAreExponential) {
  constexpr double kRate = 1000;
  Plan plan = plan_of(Mode::kPoisson, kRate);
  for (int workers : {1, 4}) {
    std::vector<Arrival> found = arrivals(plan, workers, 50 * kSecond);
    auto count = static_cast<double>(found.size());
    // Five standard deviations of a Poisson variable.
    EXPECT_NEAR(count, 50 * kRate, 5 * std::sqrt(50 * kRate));
    double sum = 0;
    double squares = 0;
    int long_gaps = 0;
    for (size_t i = 1; i < found.size(); ++i) {
      double gap = static_cast<double>(found[i].at - found[i - 1].at) * 1e-9 * kRate;
      sum += gap;
      squares += gap * gap;
      long_gaps += gap > 2;
    }
    EXPECT_NEAR(sum / count, 1, 0.03);
    EXPECT_NEAR(squares / count, 2, 0.15);
    EXPECT_NEAR(long_gaps / count, std::exp(-2), 0.01);
  }
}

TEST(Schedule, TheSeedDecidesEverything) {
  Plan plan = plan_of(Mode::kPoisson, 100);
  auto moments = [&] {
    std::vector<std::tuple<Nanos, uint32_t, uint32_t>> all;
    for (const Arrival& one : arrivals(plan, 2, 5 * kSecond)) {
      all.emplace_back(one.at, one.choice.stream, one.choice.payload);
    }
    return all;
  };
  auto first = moments();
  EXPECT_EQ(moments(), first);
  plan.seed = 12;
  EXPECT_NE(moments(), first);
}

TEST(Schedule, StreamsByWeightAndPayloadsInTurn) {
  Plan plan = plan_of(Mode::kFixed, 1000);
  std::map<uint32_t, int> streams;
  std::map<uint32_t, uint32_t> last;
  for (const Arrival& one : arrivals(plan, 1, 20 * kSecond)) {
    uint32_t stream = one.choice.stream;
    ++streams[stream];
    uint32_t first = plan.streams[stream].first_payload;
    uint32_t count = plan.streams[stream].payload_count;
    ASSERT_GE(one.choice.payload, first);
    ASSERT_LT(one.choice.payload, first + count);
    if (last.contains(stream)) {
      EXPECT_EQ(one.choice.payload - first, (last[stream] - first + 1) % count);
    }
    last[stream] = one.choice.payload;
    EXPECT_EQ(one.choice.timeout, -1);
    EXPECT_EQ(one.choice.cancel, -1);
  }
  EXPECT_NEAR(streams[0] / 20000.0, 0.75, 0.02);
}

TEST(Schedule, TimeoutsAndCancellationsAreDrawn) {
  Plan plan = plan_of(Mode::kFixed, 1000);
  plan.streams[0].timeouts = {{1, 1}, {2, 0}, {3, 3}};
  plan.streams[0].cancel_fraction = 0.25;
  plan.streams[0].cancel_from = 100;
  plan.streams[0].cancel_to = 200;
  std::map<int, int> timeouts;
  int calls = 0;
  int cancelled = 0;
  for (const Arrival& one : arrivals(plan, 1, 20 * kSecond)) {
    if (one.choice.stream != 0) continue;
    ++calls;
    ++timeouts[one.choice.timeout];
    if (one.choice.cancel < 0) continue;
    ++cancelled;
    EXPECT_GE(one.choice.cancel, 100);
    EXPECT_LE(one.choice.cancel, 200);
  }
  EXPECT_NEAR(timeouts[0], calls * 0.25, calls * 0.02);
  EXPECT_EQ(timeouts[1], 0);
  EXPECT_NEAR(timeouts[2], calls * 0.75, calls * 0.02);
  EXPECT_NEAR(cancelled, calls * 0.25, calls * 0.02);
}

class Replayed : public testing::Test {
 protected:
  Replayed() : plan_(plan_of(Mode::kReplay, 0)) {
    plan_.sources[0].arrivals = testing::TempDir() + "arrivals-" + std::to_string(getpid());
  }
  ~Replayed() override { std::filesystem::remove(plan_.sources[0].arrivals); }

  void write(const std::vector<ReplayRecord>& records, size_t spare = 0) {
    std::ofstream file(plan_.sources[0].arrivals, std::ios::binary);
    file.write(reinterpret_cast<const char*>(records.data()),
               static_cast<std::streamsize>(records.size() * sizeof(ReplayRecord)));
    file.write("xyz", static_cast<std::streamsize>(spare));
  }

  Plan plan_;
};

TEST_F(Replayed, EveryRecordOnceWhicheverWorkerMakesIt) {
  write({{0, 0, 4}, {10, 1, 0}, {11, 1, 1}, {25, 0, 0}, {99, 0, 2}});
  for (int workers : {1, 2, 9}) {
    std::vector<Arrival> found = arrivals(plan_, workers, kSecond);
    ASSERT_EQ(found.size(), 5U);
    EXPECT_EQ(found[0].choice.payload, 4U);
    EXPECT_EQ(found[1].at, 10);
    EXPECT_EQ(found[1].choice.stream, 1U);
    EXPECT_EQ(found[2].choice.payload, 6U);
    EXPECT_EQ(found[4].at, 99);
  }
}

TEST_F(Replayed, BadFilesAreRefused) {
  EXPECT_THROW(Schedule(plan_, 0, 0, 1), PlanError);  // there is none
  std::vector<std::vector<ReplayRecord>> bad{{}, {{5, 0, 0}, {4, 0, 0}}, {{0, 2, 0}}, {{0, 1, 2}}, {{-1, 0, 0}}};
  for (const auto& records : bad) {
    write(records);
    EXPECT_THROW(Schedule(plan_, 0, 0, 1), PlanError);
  }
  write({{0, 0, 0}}, 3);
  EXPECT_THROW(Schedule(plan_, 0, 0, 1), PlanError);
}

}  // namespace
}  // namespace smt::loadgen
