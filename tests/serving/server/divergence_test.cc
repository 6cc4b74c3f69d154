#include "divergence.h"

#include <gtest/gtest.h>

namespace smt::server {
namespace {

TEST(Divergence, ComparesEachTaskWhereEachVersionKeepsIt) {
  Divergence divergence({{"click", 0, 1}, {"like", 1, 0}});
  // Two rows; the shadow has a head more.
  const std::vector<float> stable{0.5F, 0.25F, 0.5F, 0.75F};
  const std::vector<float> shadow{0.25F, 0.5F, 9, 0.5F, 0.625F, 9};
  const DivergenceStep step = divergence.compared({.rows = 2, .stable = stable, .shadow = shadow});
  EXPECT_EQ(step.sum_difference, 0.125 + 0.25);
  divergence.compared({.rows = 1, .stable = std::span(stable).first(2), .shadow = std::vector<float>{0.25F, 0.5F, 9}});

  const DivergenceFigures found = divergence.figures();
  EXPECT_EQ(found.compared, 2);
  EXPECT_EQ(found.rows, 3);
  ASSERT_EQ(found.tasks.size(), 2U);
  EXPECT_EQ(found.tasks[0].task, "click");
  EXPECT_EQ(found.tasks[0].sum_difference, 0.125);
  EXPECT_EQ(found.tasks[0].max_difference, 0.125);
  EXPECT_EQ(found.tasks[0].sum_stable, 1.5);
  EXPECT_EQ(found.tasks[0].sum_shadow, 1.625);
  EXPECT_EQ(found.tasks[1].max_difference, 0.25);
  EXPECT_EQ(found.differences.front(), 4) << "equal";
  EXPECT_EQ(found.differences[kDifferenceBounds.size() - 1], 2) << "above 0.1, at most 0.3";
}

TEST(Divergence, WhatIsAboveAllBoundsIsCounted) {
  Divergence divergence({{"click", 0, 0}});
  const std::vector<float> zero{0};
  const std::vector<float> one{1};
  EXPECT_EQ(divergence.compared({.rows = 1, .stable = zero, .shadow = one}).differences.back(), 1);
}

TEST(Divergence, FailuresAreShownAsTextThatCanBePrinted) {
  Divergence divergence({});
  divergence.dropped();
  divergence.failed("feature \xff: required");
  EXPECT_EQ(divergence.figures().dropped, 1);
  EXPECT_EQ(divergence.figures().failed, 1);
  EXPECT_EQ(divergence.figures().failure.find('\xff'), std::string::npos);
}

}  // namespace
}  // namespace smt::server
