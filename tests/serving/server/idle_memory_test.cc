#include "idle_memory.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <vector>

namespace smt::server {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kOwnMalloc = false;  // the sanitizers' allocators return nothing
#else
constexpr bool kOwnMalloc = true;
#endif

// What a burst leaves: freed memory below some that is still in use, so that malloc does not return it by itself.
std::unique_ptr<char[]> burst(int64_t bytes) {
  constexpr size_t kBlock = 4000;
  std::vector<std::unique_ptr<char[]>> blocks;
  for (int64_t made = 0; made < bytes; made += static_cast<int64_t>(kBlock)) {
    blocks.push_back(std::make_unique<char[]>(kBlock));
    std::memset(blocks.back().get(), 1, kBlock);
  }
  return std::move(blocks.back());
}

TEST(IdleMemory, ReturnsWhatABurstLeavesOnceNothingRuns) {
  if (!kOwnMalloc) GTEST_SKIP() << "malloc is the sanitizer's";
  IdleMemory memory;
  int64_t start = resident_bytes();
  ASSERT_GT(start, 0);
  auto kept = burst(4 * IdleMemory::kWorthwhile);
  int64_t high = resident_bytes();
  ASSERT_GT(high, start + 3 * IdleMemory::kWorthwhile) << "malloc kept nothing: the test proves nothing";
  EXPECT_FALSE(memory.look(false)) << "a request is inside";
  EXPECT_FALSE(memory.look(true)) << "one may have been just now";
  EXPECT_FALSE(memory.look(false));
  EXPECT_FALSE(memory.look(true));
  EXPECT_GT(resident_bytes(), start + 3 * IdleMemory::kWorthwhile);
  EXPECT_TRUE(memory.look(true));
  EXPECT_LT(resident_bytes(), start + IdleMemory::kWorthwhile / 2);
  EXPECT_FALSE(memory.look(true)) << "once per burst";
  EXPECT_NE(kept, nullptr);
}

TEST(IdleMemory, LeavesLittleGrowthAlone) {
  IdleMemory memory;
  auto kept = burst(IdleMemory::kWorthwhile / 16);  // a sanitizer's shadow of it is several times as large
  EXPECT_FALSE(memory.look(true));
  EXPECT_FALSE(memory.look(true));
  EXPECT_NE(kept, nullptr);
}

}  // namespace
}  // namespace smt::server
