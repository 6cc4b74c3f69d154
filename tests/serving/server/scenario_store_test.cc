#include "scenario_store.h"

#include <gtest/gtest.h>

#include <latch>
#include <thread>

#include "fake_snapshot.h"

namespace smt::server {
namespace {

TEST(ScenarioStore, FollowsTheStatesOfAScenario) {
  ScenarioStore store;
  EXPECT_FALSE(store.status("a"));
  EXPECT_EQ(store.find("a"), nullptr);

  store.loading("a", true);
  EXPECT_EQ(store.status("a")->state, ScenarioState::kLoading);
  store.refuse("a", "v1", "damaged");
  EXPECT_EQ(store.status("a")->state, ScenarioState::kUnavailable);
  EXPECT_EQ(store.status("a")->refused_version, "v1");
  EXPECT_EQ(store.status("a")->refused_reason, "damaged");
  EXPECT_EQ(store.find("a"), nullptr);

  store.loading("a", true);
  EXPECT_EQ(store.status("a")->state, ScenarioState::kLoading);
  EXPECT_EQ(store.publish(fake_snapshot("a", "v2")), nullptr);
  ScenarioStatus status = *store.status("a");
  EXPECT_EQ(status.state, ScenarioState::kServing);
  EXPECT_EQ(status.version, "v2");
  EXPECT_EQ(status.refused_version, "");
  EXPECT_EQ(status.abi_hash, kAbi);
  EXPECT_EQ(status.weight_bytes, kPacked + int64_t{4} * kTableRows * kDim);
  EXPECT_EQ(status.loads, 1);

  store.loading("a", true);
  store.refuse("a", "v3", "damaged");
  status = *store.status("a");
  EXPECT_EQ(status.state, ScenarioState::kServing) << "a refused version takes nothing away";
  EXPECT_EQ(status.version, "v2");
  EXPECT_EQ(status.refused_version, "v3");
  EXPECT_EQ(store.find("a")->version, "v2");
  store.clear_refusal("a");
  EXPECT_EQ(store.status("a")->refused_version, "");
}

TEST(ScenarioStore, ReasonsAreValidUtf8WhateverTheyAreMadeOf) {
  ScenarioStore store;
  store.refuse("a", "\xff", "found \xed\xa0\x80 \xc3\xa4");
  EXPECT_EQ(store.status("a")->refused_reason, "found \\xed\\xa0\\x80 \xc3\xa4");
  EXPECT_EQ(store.status("a")->refused_version, "\\xff");
}

TEST(ScenarioStore, ListsByName) {
  ScenarioStore store;
  store.publish(fake_snapshot("b", "1"));
  store.loading("c", true);
  store.publish(fake_snapshot("a", "1"));
  EXPECT_EQ(store.names(), (std::vector<std::string>{"a", "b", "c"}));
  ASSERT_EQ(store.list().size(), 3U);
  EXPECT_EQ(store.list()[2].state, ScenarioState::kLoading);
}

TEST(ScenarioStore, WeightsLiveAsLongAsARequestUsesThem) {
  ScenarioStore store;
  int freed = 0;
  store.publish(fake_snapshot("a", "old", 1, [&] { ++freed; }));
  std::shared_ptr<const LoadedSnapshot> request = store.find("a");
  EXPECT_EQ(store.publish(fake_snapshot("a", "new", 2))->version, "old");
  EXPECT_EQ(freed, 0);
  EXPECT_EQ(packed_float(request->weights.packed(), 0), 1.0F);
  request.reset();
  EXPECT_EQ(freed, 1);
}

TEST(ScenarioStore, FreesOutsideTheLock) {
  ScenarioStore store;
  bool looked = false;
  // Would deadlock if the last reference were dropped under the lock.
  store.publish(fake_snapshot("a", "old", 1, [&] { looked = store.find("a") != nullptr; }));
  store.publish(fake_snapshot("a", "new", 2));
  EXPECT_TRUE(looked);
  store.publish(fake_snapshot("b", "old", 1, [&] { looked = store.find("b") == nullptr; }));
  looked = false;
  store.clear();
  EXPECT_TRUE(looked);
}

// Versions are published while readers score. A snapshot's weights all equal its version number, so a reader that saw
// parts of two versions, or freed memory, would notice.
TEST(ScenarioStore, ReadersNeverSeeAMixedOrFreedSnapshot) {
  constexpr int kVersions = 300;
  constexpr int kReaders = 4;
  ScenarioStore store;
  std::atomic<int> freed{0};
  std::atomic<int> wrong{0};
  std::atomic<bool> done{false};
  std::latch started(kReaders + 1);
  store.publish(fake_snapshot("a", "0", 0, [&] { ++freed; }));
  std::vector<std::thread> readers;
  for (int i = 0; i < kReaders; ++i) {
    readers.emplace_back([&] {
      started.arrive_and_wait();
      int last = 0;
      do {
        auto snapshot = store.find("a");
        int version = std::stoi(snapshot->version);
        if (version < last) ++wrong;  // a reader never goes back
        last = version;
        for (float element : as_floats(snapshot->weights.packed())) {
          if (element != static_cast<float>(version)) ++wrong;
        }
      } while (!done.load());
    });
  }
  started.arrive_and_wait();
  for (int version = 1; version <= kVersions; ++version) {
    store.publish(fake_snapshot("a", std::to_string(version), static_cast<float>(version), [&] { ++freed; }));
    std::this_thread::yield();
  }
  done = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(freed, kVersions) << "all but the one being served";
  EXPECT_EQ(store.status("a")->loads, kVersions + 1);
}

}  // namespace
}  // namespace smt::server
