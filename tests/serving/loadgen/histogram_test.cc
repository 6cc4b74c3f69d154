#include "histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace smt::loadgen {
namespace {

constexpr double kError = 1.0 / 1024;

// The quantile by its definition.
int64_t exact(std::vector<int64_t> values, double q) {
  std::sort(values.begin(), values.end());
  auto rank = static_cast<size_t>(std::ceil(q * static_cast<double>(values.size())));
  return values[std::clamp<size_t>(rank, 1, values.size()) - 1];
}

TEST(Histogram, QuantilesAreExactToATenthOfAPercent) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 40; ++round) {
    std::lognormal_distribution<double> draw(std::uniform_real_distribution<double>(0, 22)(random),
                                             std::uniform_real_distribution<double>(0.1, 3)(random));
    Histogram histogram;
    std::vector<int64_t> values;
    double sum = 0;
    for (int i = 0; i < 1 + round * 50; ++i) {
      auto value = static_cast<int64_t>(std::min(draw(random), static_cast<double>(Histogram::kMax)));
      histogram.record(value);
      values.push_back(value);
      sum += static_cast<double>(value);
    }
    for (double q : {0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0}) {
      auto truth = static_cast<double>(exact(values, q));
      auto found = static_cast<double>(histogram.quantile(q));
      EXPECT_GE(found, truth) << q;  // never flattering
      EXPECT_LE(found, truth * (1 + kError)) << q;
    }
    EXPECT_EQ(histogram.count(), values.size());
    EXPECT_DOUBLE_EQ(histogram.sum(), sum);
    EXPECT_EQ(histogram.min(), *std::min_element(values.begin(), values.end()));
    EXPECT_EQ(histogram.max(), *std::max_element(values.begin(), values.end()));
  }
}

TEST(Histogram, BucketsHoldWhatTheySay) {
  Histogram histogram;
  std::vector<int64_t> edges{0, 1, 1023, 1024, 1025, 2047, 2048, 2049, 4095, 4096, Histogram::kMax};
  for (int64_t value : edges) histogram.record(value);
  std::vector<int64_t> lowest;
  uint64_t count = 0;
  int64_t last = -1;
  histogram.for_each([&](int64_t low, uint64_t held) {
    EXPECT_GT(low, last);
    last = low;
    lowest.push_back(low);
    count += held;
  });
  EXPECT_EQ(count, edges.size());
  EXPECT_EQ(lowest[0], 0);
  // 2048 and 2049 share the first bucket that is two wide.
  EXPECT_EQ(std::count(lowest.begin(), lowest.end(), 2048), 1);
  EXPECT_EQ(std::count(lowest.begin(), lowest.end(), 2049), 0);
}

TEST(Histogram, WhatIsOutOfRangeCountsAtTheEnds) {
  Histogram histogram;
  histogram.record(-5);
  histogram.record(INT64_MAX);
  EXPECT_EQ(histogram.min(), 0);
  EXPECT_EQ(histogram.max(), Histogram::kMax);
  EXPECT_EQ(histogram.quantile(1), Histogram::kMax);
}

TEST(Histogram, SumIsThatOfOneThatSawEverything) {
  std::mt19937_64 random(2);
  Histogram parts[3];
  Histogram whole;
  for (int i = 0; i < 3000; ++i) {
    auto value = static_cast<int64_t>(random() >> (random() % 60 + 4));
    parts[i % 3].record(value);
    whole.record(value);
  }
  Histogram sum;
  for (const Histogram& part : parts) sum.add(part);
  std::vector<std::pair<int64_t, uint64_t>> expected;
  std::vector<std::pair<int64_t, uint64_t>> found;
  whole.for_each([&](int64_t low, uint64_t count) { expected.emplace_back(low, count); });
  sum.for_each([&](int64_t low, uint64_t count) { found.emplace_back(low, count); });
  EXPECT_EQ(found, expected);
  EXPECT_EQ(sum.count(), whole.count());
  EXPECT_EQ(sum.min(), whole.min());
  EXPECT_EQ(sum.max(), whole.max());
  EXPECT_NEAR(sum.sum(), whole.sum(), 1e-9 * whole.sum());
  sum.clear();
  EXPECT_EQ(sum.count(), 0U);
  EXPECT_EQ(sum.quantile(0.5), 0);
  sum.for_each([](int64_t, uint64_t) { FAIL(); });
}

}  // namespace
}  // namespace smt::loadgen
