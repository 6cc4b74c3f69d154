#include "reaper.h"

#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <thread>
#include <vector>

#include "fake_snapshot.h"

namespace smt::server {
namespace {

TEST(Reaper, FreesOnItsOwnThreadWhoeverDropsTheLastReference) {
  std::thread::id freeing;
  std::thread::id told;
  std::latch done(1);
  Reaper reaper;
  auto snapshot = reaper.adopt(fake_snapshot("a", "v1", 0.5F, [&] { freeing = std::this_thread::get_id(); }), [&] {
    told = std::this_thread::get_id();
    done.count_down();
  });
  EXPECT_EQ(snapshot->version, "v1");
  std::jthread([last = std::move(snapshot)]() mutable { last.reset(); }).join();
  done.wait();
  EXPECT_NE(freeing, std::this_thread::get_id());
  EXPECT_EQ(told, freeing);
}

TEST(Reaper, WaitsForWhatWasHandedOver) {
  std::atomic<int> freed{0};
  Reaper reaper;
  std::vector<std::shared_ptr<const LoadedSnapshot>> held;
  for (int i = 0; i < 50; ++i) held.push_back(reaper.adopt(fake_snapshot("a", "v1"), [&] { ++freed; }));
  auto kept = held.back();
  held.clear();
  EXPECT_TRUE(reaper.wait_idle(std::chrono::seconds(30)));
  EXPECT_EQ(freed, 49) << "one is in use";
  kept.reset();
  EXPECT_TRUE(reaper.wait_idle(std::chrono::seconds(30)));
  EXPECT_EQ(freed, 50);
}

TEST(Reaper, ASnapshotMayOutliveIt) {
  std::atomic<int> freed{0};
  std::shared_ptr<const LoadedSnapshot> snapshot;
  {
    Reaper reaper;
    auto gone = reaper.adopt(fake_snapshot("a", "v1", 0.5F, [&] { ++freed; }), {});
    snapshot =
        reaper.adopt(fake_snapshot("a", "v2", 0.5F, [&] { ++freed; }), [] { FAIL() << "nobody is there to be told"; });
  }
  EXPECT_EQ(freed, 1) << "its end waits for what was handed over";
  EXPECT_EQ(snapshot->version, "v2");
  snapshot.reset();
  EXPECT_EQ(freed, 2);
}

}  // namespace
}  // namespace smt::server
