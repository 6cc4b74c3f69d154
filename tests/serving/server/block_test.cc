#include "block.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "fake_snapshot.h"
#include "no_work.h"

namespace smt::server {
namespace {

class BlockTest : public ::testing::Test {
 protected:
  BlockTest() {
    for (const char* name : {"a", "b", "c"}) {
      works_.push_back(std::make_unique<NoWork>());
      works_.back()->snapshot = fake_snapshot(name, "v1");
    }
  }
  Work* work(size_t scenario) { return works_[scenario].get(); }
  std::vector<int64_t> rows_of_parts() const {
    std::vector<int64_t> rows;
    for (const Part& part : block_.parts) rows.push_back(part.rows);
    return rows;
  }

  Block block_;

 private:
  std::vector<std::unique_ptr<NoWork>> works_;
};

TEST_F(BlockTest, PadsToWhatTheKernelsCompute) {
  EXPECT_EQ(padded(0), 0);
  EXPECT_EQ(padded(1), cpu::kRowBlock);
  EXPECT_EQ(padded(cpu::kRowBlock), cpu::kRowBlock);
  EXPECT_EQ(padded(cpu::kRowBlock + 1), 2 * cpu::kRowBlock);
}

TEST_F(BlockTest, RowsOfOneSnapshotLieWithoutPadding) {
  EXPECT_EQ(block_.rows(), 0);
  EXPECT_EQ(block_.segment(work(0)), nullptr);
  block_.add({work(0), 0, 3});
  block_.add({work(0), 3, 10});
  EXPECT_EQ(block_.rows(), 13);
  EXPECT_EQ(block_.segment(work(0))->rows, 13);
  EXPECT_EQ(block_.room(64, work(0)), 51);
  EXPECT_EQ(block_.room(64, work(1)), 48) << "another's begin with a row block";
  block_.clear();
  EXPECT_EQ(block_.rows(), 0);
}

TEST_F(BlockTest, TheLastSnapshotNeedsNoPadding) {
  block_.add({work(0), 0, 16});
  EXPECT_EQ(block_.padding_with(3), 0);
  block_.add({work(1), 0, 10});
  EXPECT_EQ(block_.padding_with(16), 0) << "the ten go last";
  EXPECT_EQ(block_.padding_with(3), 6) << "the three go last";
}

TEST_F(BlockTest, IsArrangedBySnapshotWithTheShortestTailLast) {
  block_.add({work(0), 0, 3});
  block_.add({work(1), 0, 16});
  block_.add({work(2), 0, 15});
  block_.add({work(1), 16, 32});
  block_.add({work(0), 3, 1});
  block_.arrange();
  EXPECT_EQ(rows_of_parts(), (std::vector<int64_t>{15, 16, 32, 3, 1}));
  EXPECT_EQ(block_.parts.back().work, work(0));
}

}  // namespace
}  // namespace smt::server
