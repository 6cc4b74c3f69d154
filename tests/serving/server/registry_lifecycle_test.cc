// The states that versions go through, what stays warm, and the limit of memory.
#include "watched_registry.h"

namespace smt::server {
namespace {

class RegistryLifecycleTest : public WatchedRegistry {
 protected:
  void publish(const std::string& scenario, const std::string& name, const std::string& text = "good") {
    version(scenario, name, text);
    registry_.point(scenario, name);
    watcher_.scan();
  }
};

TEST_F(RegistryLifecycleTest, TheVersionBeforeStaysWarmAndOlderOnesGo) {
  publish("a", "v1");
  EXPECT_EQ(versions("a"), Events{"v1 serving stable"});
  publish("a", "v2");
  EXPECT_EQ(versions("a"), (Events{"v1 warm", "v2 serving stable"}));
  publish("a", "v3");
  EXPECT_EQ(versions("a"), (Events{"v1 unloaded", "v2 warm", "v3 serving stable"}));
  EXPECT_EQ(lifecycle_.resident_bytes(), 2 * kFakeBytes);
}

TEST_F(RegistryLifecycleTest, ARollbackNeedsNoLoadAndLetsGoOfWhatItLeft) {
  publish("a", "v1");
  publish("a", "v2");
  observer_.take();
  EXPECT_EQ(ask(watcher_, CommandVerb::kRollback, "a").code, CommandCode::kOk);
  EXPECT_EQ(observer_.take(), Events{"swapped a v1"});
  EXPECT_EQ(loads_, 2);
  EXPECT_EQ(store_.status("a")->loads, 2);
  EXPECT_EQ(versions("a"), (Events{"v1 serving stable", "v2 unloaded"}));
}

TEST_F(RegistryLifecycleTest, AVersionDrainsUntilTheLastRequestThatUsesItIsDone) {
  publish("a", "v1");
  auto request = store_.find("a");
  publish("a", "v2");
  publish("a", "v3");
  EXPECT_EQ(versions("a"), (Events{"v1 draining", "v2 warm", "v3 serving stable"}));
  publish("a", "v1");
  EXPECT_EQ(versions("a"), (Events{"v1 draining", "v2 unloaded", "v3 warm", "v1 serving stable"}))
      << "a copy of its own";
  request.reset();
  EXPECT_EQ(versions("a"), (Events{"v1 unloaded", "v2 unloaded", "v3 warm", "v1 serving stable"}));
}

TEST_F(RegistryLifecycleTest, WhatIsRefusedSaysWhyAndTakesNothingAway) {
  publish("a", "v1");
  publish("a", "v2", "element 3 is not finite");
  EXPECT_EQ(versions("a"), (Events{"v1 serving stable", "v2 refused"}));
  EXPECT_EQ(lifecycle_.of("a")[1].reason, "element 3 is not finite");
  observer_.take();
  version("a", "v2");
  EXPECT_EQ(scan(), Events{"loaded a v2"});
  EXPECT_EQ(versions("a"), (Events{"v1 warm", "v2 serving stable"})) << "its new life takes the place of the old one";
}

TEST_F(RegistryLifecycleTest, UnloadKeepsNothingWarm) {
  publish("a", "v1");
  publish("a", "v2");
  EXPECT_EQ(ask(watcher_, CommandVerb::kUnload, "a").code, CommandCode::kOk);
  EXPECT_EQ(versions("a"), (Events{"v1 unloaded", "v2 unloaded"}));
  EXPECT_EQ(lifecycle_.resident_bytes(), 0);
}

TEST_F(RegistryLifecycleTest, ARollbackInterruptsALoadThatTheRegistryAskedFor) {
  publish("a", "v1");
  publish("a", "v2");
  version("b", "big", "hang");
  registry_.point("b", "big");
  watcher_.start(std::chrono::milliseconds(1));
  hanging_.wait();
  std::latch done(1);
  watcher_.commands().submit({.verb = CommandVerb::kRollback,
                              .scenario = "a",
                              .version = "",
                              .abandoned = {},
                              .done = [&](const CommandOutcome&) {
                                version("b", "big");  // before the load is begun again
                                done.count_down();
                              }});
  done.wait();
  EXPECT_EQ(serving("a"), "v1");
  EXPECT_TRUE(observer_.wait_for("loaded b big"));
  watcher_.stop();
  EXPECT_EQ(store_.status("b")->refused_reason, "");
}

class LimitedTest : public RegistryLifecycleTest {
 protected:
  // Room for two versions, and retries at once.
  RegistryWatcher limited_{Registry(registry_.root()),
                           loader(),
                           {.store = store_, .lifecycle = lifecycle_, .reaper = reaper_},
                           observer_,
                           {.retry = std::chrono::milliseconds(0), .memory_limit = 2 * kFakeBytes + 1}};
  Events publish_limited(const std::string& scenario, const std::string& name) {
    version(scenario, name);
    registry_.point(scenario, name);
    limited_.scan();
    return observer_.take();
  }
};

TEST_F(LimitedTest, WarmVersionsGiveWayAndTheRestIsRefusedWithFigures) {
  EXPECT_EQ(publish_limited("a", "v1"), (Events{"found a", "loaded a v1"}));
  EXPECT_EQ(publish_limited("a", "v2"), Events{"loaded a v2"});
  EXPECT_EQ(versions("a"), (Events{"v1 warm", "v2 serving stable"}));
  EXPECT_EQ(publish_limited("b", "v1"), (Events{"found b", "loaded b v1"})) << "in place of what was only warm";
  EXPECT_EQ(versions("a"), (Events{"v1 unloaded", "v2 serving stable"}));

  EXPECT_EQ(publish_limited("c", "v1"), (Events{"found c", "refused c memory"}));
  EXPECT_EQ(versions("c"), Events{"v1 refused"});
  EXPECT_EQ(store_.status("c")->refused_reason,
            "scenario 'c' version v1: needs 1 MiB of memory for weights; 1 MiB are in use and the limit is 1 MiB "
            "(--memory-limit)");
  EXPECT_EQ(serving("a"), "v2");
  EXPECT_EQ(serving("b"), "v1");
  EXPECT_LE(lifecycle_.resident_bytes(), 2 * kFakeBytes);

  EXPECT_EQ(ask(limited_, CommandVerb::kUnload, "a").code, CommandCode::kOk);
  limited_.scan();
  EXPECT_EQ(serving("c"), "v1") << "tried again: there is room now";
}

TEST_F(LimitedTest, WhatRequestsHoldCounts) {
  publish_limited("a", "v1");
  auto request = store_.find("a");
  publish_limited("a", "v2");
  EXPECT_EQ(publish_limited("a", "v3"), Events{"refused a memory serving"}) << "v1 is let go, and held by a request";
  EXPECT_EQ(versions("a"), (Events{"v1 draining", "v2 serving stable", "v3 refused"}));
  request.reset();
  limited_.scan();
  EXPECT_EQ(serving("a"), "v3");
}

TEST_F(RegistryLifecycleTest, KeepsNothingWarmWhenToldSo) {
  ScenarioStore store;
  RegistryWatcher cold(Registry(registry_.root()), loader(),
                       {.store = store, .lifecycle = lifecycle_, .reaper = reaper_}, observer_, {.keep_warm = false});
  for (const char* name : {"v1", "v2"}) {
    version("a", name);
    registry_.point("a", name);
    cold.scan();
  }
  EXPECT_EQ(versions("a"), (Events{"v1 unloaded", "v2 serving stable"}));
  EXPECT_EQ(ask(cold, CommandVerb::kRollback, "a").code, CommandCode::kOk) << "by loading it";
  EXPECT_EQ(loads_, 3);
}

}  // namespace
}  // namespace smt::server
