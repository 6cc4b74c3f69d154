#include "fair_order.h"

#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "no_work.h"

namespace smt::server {
namespace {

// Scenarios whose works cost what the test says.
class FairOrderTest : public testing::Test {
 protected:
  ScenarioQueue& scenario(const std::string& name, double weight = 1, int priority = 0) {
    queues_.push_back(std::make_unique<ScenarioQueue>(name, ScenarioPolicy{.weight = weight, .priority = priority}));
    return *queues_.back();
  }
  void push(ScenarioQueue& queue, int count = 1) {
    for (int i = 0; i < count; ++i) {
      Work* work = works_.emplace_back(std::make_unique<NoWork>()).get();
      work->rows = 1;
      order.update(queue, [&] { queue.push(work, false); });
    }
  }
  // Serves whoever is next; returns its name.
  std::string serve(double seconds) {
    ScenarioQueue& queue = order.next();
    order.charge(queue, seconds, [&] { queue.took(queue.next(), false, 1); });
    return queue.scenario();
  }
  int count(const std::string& name, int blocks, double seconds) {
    int found = 0;
    for (int i = 0; i < blocks; ++i) found += serve(seconds) == name ? 1 : 0;
    return found;
  }

  FairOrder order;

 private:
  std::vector<std::unique_ptr<ScenarioQueue>> queues_;
  std::deque<std::unique_ptr<Work>> works_;
};

TEST_F(FairOrderTest, AHigherPriorityGoesFirst) {
  ScenarioQueue& idle = scenario("idle", 1, -1);
  ScenarioQueue& urgent = scenario("urgent", 1, 1);
  push(idle, 2);
  push(urgent, 2);
  EXPECT_EQ(serve(1), "urgent");
  EXPECT_EQ(serve(1), "urgent");
  EXPECT_EQ(serve(1), "idle");
  push(urgent);
  EXPECT_EQ(serve(1), "urgent");
  EXPECT_EQ(serve(1), "idle");
  EXPECT_TRUE(order.empty());
}

TEST_F(FairOrderTest, ScenariosThatAlwaysWaitShareByWeight) {
  push(scenario("heavy", 3), 4000);
  push(scenario("light", 1), 4000);
  EXPECT_DOUBLE_EQ(order.weight(), 4);
  EXPECT_NEAR(count("heavy", 4000, 1e-3), 3000, 3);
}

TEST_F(FairOrderTest, WhatCostsMoreComesLessOften) {
  ScenarioQueue& large = scenario("large");
  push(large, 1000);
  push(scenario("small"), 1000);
  int of_large = 0;
  for (int i = 0; i < 1000; ++i) of_large += serve(&order.next() == &large ? 4e-3 : 1e-3) == "large" ? 1 : 0;
  EXPECT_NEAR(of_large, 200, 2);
}

TEST_F(FairOrderTest, OneThatAsksForLessThanItsShareDoesNotTakeTurns) {
  ScenarioQueue& modest = scenario("modest");
  push(scenario("flood"), 10000);
  for (int round = 0; round < 100; ++round) {
    count("flood", 40, 1e-3);
    push(modest, 8);  // a sixth of the workers' time, all of it at once
    EXPECT_EQ(count("modest", 8, 1e-3), 8) << "round " << round;
  }
}

TEST_F(FairOrderTest, NobodyCatchesUpOnMoreThanTheCredit) {
  ScenarioQueue& late = scenario("late");
  push(scenario("always"), 10000);
  count("always", 5000, 1e-3);
  push(late, 5000);
  const int credit = static_cast<int>(FairOrder::kCreditSeconds / 1e-3);
  EXPECT_NEAR(count("late", credit, 1e-3), credit, 1);
  EXPECT_NEAR(count("late", 1000, 1e-3), 500, 3);
}

TEST_F(FairOrderTest, WhereThereIsTimeForAllTheFirstToComeIsServedFirst) {
  ScenarioQueue& often = scenario("often");
  ScenarioQueue& seldom = scenario("seldom");
  for (int i = 0; i < 100; ++i) {
    push(often);
    EXPECT_EQ(serve(5e-3), "often");
  }
  push(often);  // nobody waited: what it took is forgotten
  push(seldom);
  EXPECT_EQ(serve(1e-3), "often");
  EXPECT_EQ(serve(1e-3), "seldom");
  EXPECT_TRUE(order.empty());
  EXPECT_DOUBLE_EQ(order.weight(), 0);
}

TEST_F(FairOrderTest, AnotherWorkDoesNotLoseAScenarioItsTurn) {
  ScenarioQueue& first = scenario("first");
  ScenarioQueue& second = scenario("second");
  push(first);
  push(second);
  push(first);
  EXPECT_EQ(serve(1e-3), "first");
}

TEST_F(FairOrderTest, APolicyThatChangesWhileItWaitsCounts) {
  ScenarioQueue& one = scenario("one");
  ScenarioQueue& other = scenario("other");
  push(one, 1000);
  push(other, 10);
  count("one", 15, 1);  // far ahead in virtual time
  order.update(one, [&] { one.set({.weight = 2, .priority = 1}); });
  order.update(other, [&] { other.set({.weight = 1, .priority = 1}); });
  EXPECT_EQ(count("other", 6, 1), 2);
}

}  // namespace
}  // namespace smt::server
