#include "canary_monitor.h"

#include <gtest/gtest.h>

#include <random>

#include "label_routes.h"

namespace smt::server {
namespace {

using Clock = CanaryMonitor::Clock;

class CanaryMonitorTest : public ::testing::Test {
 protected:
  // Requests of both arms in turn. What is not said is alike in both: 1 ms and a mean of 0.1, with noise.
  struct Traffic {
    int requests = 2000;
    double stable_errors = 0;
    double canary_errors = 0;
    double canary_latency = 1;  // times the stable version's
    double canary_mean = 1;     // times the stable version's
  };
  std::optional<Alarm> run(const Traffic& traffic, const CanaryRules& rules = {}) {
    CanaryMonitor monitor(rules);
    std::lognormal_distribution<double> noise(0, 0.3);
    std::uniform_real_distribution<double> chance(0, 1);
    for (int i = 0; i < traffic.requests; ++i) {
      for (Arm arm : {Arm::kStable, Arm::kCanary}) {
        const bool canary = arm == Arm::kCanary;
        const bool failed = chance(random_) < (canary ? traffic.canary_errors : traffic.stable_errors);
        const double seconds = 1e-3 * noise(random_) * (canary ? traffic.canary_latency : 1);
        monitor.answered(arm, failed ? Outcome::kInternal : Outcome::kOk, seconds, now_);
        if (!failed) monitor.scored(arm, "click", 0.1 * noise(random_) * (canary ? traffic.canary_mean : 1), now_);
      }
    }
    return monitor.judge(now_);
  }
  static AlarmCause cause(const std::optional<Alarm>& alarm) {
    EXPECT_TRUE(alarm);
    return alarm ? alarm->cause : AlarmCause::kErrors;
  }
  std::mt19937_64 random_{20260203};
  Clock::time_point now_ = Clock::now();
};

TEST_F(CanaryMonitorTest, NoiseRaisesNoAlarm) {
  for (int i = 0; i < 50; ++i) {
    for (int requests : {199, 200, 300, 2000}) EXPECT_FALSE(run({.requests = requests})) << i;
    EXPECT_FALSE(run({.stable_errors = 0.05, .canary_errors = 0.05})) << i;
  }
}

TEST_F(CanaryMonitorTest, EachAlarmNamesItsFigures) {
  auto errors = run({.stable_errors = 0.01, .canary_errors = 0.1});
  EXPECT_EQ(cause(errors), AlarmCause::kErrors);
  EXPECT_NE(errors->message.find("of its 2000 requests failed"), std::string::npos) << errors->message;
  auto latency = run({.canary_latency = 4});
  EXPECT_EQ(cause(latency), AlarmCause::kLatency);
  EXPECT_NE(latency->message.find("p99 of its 2000 requests"), std::string::npos) << latency->message;
  for (double mean : {0.5, 1.5}) {
    auto drift = run({.canary_mean = mean});
    EXPECT_EQ(cause(drift), AlarmCause::kDrift);
    EXPECT_NE(drift->message.find("task click"), std::string::npos) << drift->message;
  }
}

TEST_F(CanaryMonitorTest, WhatIsAllowedIsNoAlarm) {
  EXPECT_FALSE(run({.canary_errors = 0.01}));
  EXPECT_FALSE(run({.canary_latency = 1.5}));
  EXPECT_FALSE(run({.canary_mean = 1.15}));
}

TEST_F(CanaryMonitorTest, TooFewRequestsAreNoAlarmHoweverBad) {
  EXPECT_FALSE(run({.requests = 199, .canary_errors = 1}));
  EXPECT_FALSE(run({.requests = 199, .canary_latency = 100, .canary_mean = 9}));
  EXPECT_TRUE(run({.requests = 200, .canary_errors = 1}));
  EXPECT_TRUE(run({.requests = 20, .canary_errors = 1}, {.min_requests = 20}));
}

TEST_F(CanaryMonitorTest, AThresholdOfZeroTurnsItOff) {
  EXPECT_FALSE(run({.canary_errors = 1}, {.error_rate = 0}));
  EXPECT_FALSE(run({.canary_latency = 9}, {.latency_ratio = 0}));
  EXPECT_FALSE(run({.canary_mean = 9}, {.drift = 0}));
}

TEST_F(CanaryMonitorTest, OutcomesThatSayNothingOfTheVersionAreLeftOut) {
  CanaryMonitor monitor({});
  for (int i = 0; i < 1000; ++i) {
    monitor.answered(Arm::kCanary, Outcome::kCancelled, 1, now_);
    monitor.answered(Arm::kCanary, Outcome::kResourceExhausted, 1, now_);
    monitor.answered(Arm::kCanary, Outcome::kUnavailable, 1, now_);
    monitor.answered(Arm::kStable, Outcome::kOk, 1e-3, now_);
  }
  EXPECT_FALSE(monitor.judge(now_));
}

TEST_F(CanaryMonitorTest, ForgetsWhatIsOlderThanTwoWindows) {
  CanaryMonitor monitor({});
  auto errors = [&](Clock::time_point at) {
    for (int i = 0; i < 500; ++i) monitor.answered(Arm::kCanary, Outcome::kInternal, 1e-3, at);
  };
  errors(now_);
  EXPECT_TRUE(monitor.judge(now_ + std::chrono::seconds(61))) << "one window ago";
  EXPECT_FALSE(monitor.judge(now_ + std::chrono::seconds(200)));
  errors(now_ + std::chrono::seconds(300));
  EXPECT_TRUE(monitor.judge(now_ + std::chrono::seconds(300)));
}

// The values are those of the Python package xxhash: see label_position() in tests/serving/test_server_canary.py.
TEST(LabelPosition, IsStableAndUniform) {
  EXPECT_EQ(label_position("feed", "user-1"), label_position("feed", "user-1"));
  EXPECT_NE(label_position("feed", "user-1"), label_position("search", "user-1"));
  int below = 0;
  for (int i = 0; i < 100'000; ++i) {
    double position = label_position("feed", "user-" + std::to_string(i));
    ASSERT_GE(position, 0);
    ASSERT_LT(position, 100);
    below += position < 5 ? 1 : 0;
  }
  EXPECT_NEAR(below, 5000, 4 * 69) << "four standard deviations";
}

}  // namespace
}  // namespace smt::server
