#include "cost_model.h"

#include <gtest/gtest.h>

namespace smt::server {
namespace {

TEST(CostModel, NothingObservedIsNoEstimate) {
  CostModel model;
  EXPECT_EQ(model.seconds(1), 0);
  EXPECT_EQ(model.row_seconds(), 0);
}

TEST(CostModel, BatchesOfOneSizeGiveTheirTime) {
  CostModel model;
  for (int i = 0; i < 100; ++i) model.observe(256, 1e-3);
  EXPECT_NEAR(model.seconds(256), 1e-3, 1e-9);
  EXPECT_NEAR(model.row_seconds(), 1e-3 / 256, 1e-9);
}

TEST(CostModel, SmallBatchesSayNothingOfALargeOnesRows) {
  CostModel model;
  for (int i = 0; i < 100; ++i) model.observe(1, 30e-6);
  for (int i = 0; i < 100; ++i) model.observe(256, 1e-3);
  EXPECT_NEAR(model.seconds(1), 30e-6, 1e-9);
  EXPECT_NEAR(model.seconds(256), 1e-3, 1e-9);
}

TEST(CostModel, ALargeBatchLongAgoDoesNotSayWhatRowsCostNow) {
  CostModel model;
  model.observe(256, 0.04);
  for (int i = 0; i < 100; ++i) model.observe(64, 1e-3);
  EXPECT_NEAR(model.row_seconds(), 1e-3 / 64, 1e-9);
  for (int i = 0; i < 200; ++i) model.observe(64, 1e-3);
  model.observe(256, 4e-3);  // seen again, it counts again, and what it was before is forgotten
  EXPECT_NEAR(model.row_seconds(), 4e-3 / 256, 2e-6);
}

TEST(CostModel, WhereNothingWasSeenItPromisesTooMuch) {
  CostModel model;
  model.observe(64, 64e-6);
  EXPECT_NEAR(model.seconds(16), 16e-6, 1e-12);   // a call's fixed part is left out
  EXPECT_NEAR(model.seconds(256), 64e-6, 1e-12);  // the rows beyond as well
}

TEST(CostModel, OneHiccupMovesItLittle) {
  CostModel model;
  for (int i = 0; i < 100; ++i) model.observe(16, 1e-4);
  model.observe(16, 10);
  EXPECT_LT(model.seconds(16), 1.5e-4);
}

TEST(CostModel, RelaxesBelowAnyDeadline) {
  CostModel model;
  model.observe(16, 1);
  for (int i = 0; i < 1000 && model.seconds(16) > 1e-3; ++i) model.relax();
  EXPECT_LE(model.seconds(16), 1e-3);
}

TEST(CostModel, ManyRowsShareTheLastBucket) {
  CostModel model;
  model.observe(1 << 20, 1);
  EXPECT_NEAR(model.seconds(1 << 20), 1, 1e-9);
}

}  // namespace
}  // namespace smt::server
