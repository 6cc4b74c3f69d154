// The canary as the watcher follows it: its life beside the stable version's.
#include "watched_registry.h"

namespace smt::server {
namespace {

class RegistryCanaryTest : public WatchedRegistry {
 protected:
  void SetUp() override {
    version("a", "v1");
    version("a", "v2");
    registry_.point("a", "v1");
    scan();
  }
  void label(const std::string& text) { write_file(file(), text); }
  void canary(const std::string& name, double percent = 5) {
    label(nlohmann::json{{"version", name}, {"percent", percent}}.dump());
  }
  std::filesystem::path file() const { return registry_.root() / "scenarios/a/labels/canary"; }
  std::string answering() {
    auto served = store_.served("a");
    return served.labels ? served.labels->canary->version : "";
  }
  // As many failed requests of the canary as an alarm needs.
  void fail() {
    auto monitor = store_.served("a").labels->monitor;
    for (int i = 0; i < 1000; ++i) monitor->answered(Arm::kCanary, Outcome::kInternal, 1e-3);
  }
};

TEST_F(RegistryCanaryTest, FollowsTheLabel) {
  EXPECT_EQ(answering(), "");
  canary("v2", 12.5);
  EXPECT_EQ(scan(), Events{});
  EXPECT_EQ(answering(), "v2");
  EXPECT_EQ(store_.served("a").labels->percent, 12.5);
  EXPECT_EQ(versions("a"), (Events{"v1 serving stable", "v2 serving canary"}));
  EXPECT_EQ(serving("a"), "v1");

  auto monitor = store_.served("a").labels->monitor;
  canary("v2", 50);
  scan();
  EXPECT_EQ(store_.served("a").labels->percent, 50);
  EXPECT_EQ(store_.served("a").labels->monitor, monitor) << "what it has seen still counts";
  monitor.reset();

  std::filesystem::remove(file());
  scan();
  EXPECT_EQ(answering(), "");
  EXPECT_EQ(versions("a"), (Events{"v1 serving stable", "v2 unloaded"}));
}

TEST_F(RegistryCanaryTest, PromotionNeedsNoLoad) {
  canary("v2");
  scan();
  registry_.point("a", "v2");
  EXPECT_EQ(scan(), Events{"swapped a v2"});
  EXPECT_EQ(loads_, 2);
  EXPECT_EQ(answering(), "") << "it is the stable version now";
  EXPECT_EQ(versions("a"), (Events{"v1 warm", "v2 serving stable"}));
}

TEST_F(RegistryCanaryTest, ANewStableVersionIsComparedAnew) {
  canary("v2");
  scan();
  auto monitor = store_.served("a").labels->monitor;
  version("a", "v3");
  registry_.point("a", "v3");
  scan();
  EXPECT_EQ(answering(), "v2");
  EXPECT_NE(store_.served("a").labels->monitor, monitor);
  EXPECT_EQ(versions("a"), (Events{"v1 warm", "v2 serving canary", "v3 serving stable"}));
}

TEST_F(RegistryCanaryTest, AnAlarmTakesItOutOfServiceForGood) {
  canary("v2");
  scan();
  fail();
  EXPECT_EQ(scan(), Events{"rolled back a errors"});
  EXPECT_EQ(answering(), "");
  EXPECT_EQ(versions("a"), (Events{"v1 serving stable", "v2 refused"}));
  std::string reason = lifecycle_.of("a")[1].reason;
  EXPECT_TRUE(reason.starts_with("rolled back: errors: 100.00 % of its 1000 requests failed")) << reason;
  EXPECT_EQ(scan(), Events{});
  canary("v2", 50);
  EXPECT_EQ(scan(), Events{}) << "another share is no other version";
  EXPECT_EQ(loads_, 2);
  version("a", "v3");
  canary("v3");
  scan();
  EXPECT_EQ(answering(), "v3");
  canary("v2");
  scan();
  EXPECT_EQ(answering(), "v2") << "it was named anew";
}

TEST_F(RegistryCanaryTest, LoadTriesItAgain) {
  canary("v2");
  scan();
  fail();
  scan();
  EXPECT_EQ(ask(watcher_, CommandVerb::kLoad, "a").code, CommandCode::kOk);
  scan();
  EXPECT_EQ(answering(), "v2");
}

TEST_F(RegistryCanaryTest, WhatCannotBeLoadedIsRefusedOnceAndDisturbsNothing) {
  version("a", "v3", "element 3 is not finite");
  canary("v3");
  EXPECT_EQ(scan(), Events{"refused a weights serving"});
  EXPECT_EQ(scan(), Events{});
  EXPECT_EQ(answering(), "");
  EXPECT_EQ(versions("a"), (Events{"v1 serving stable", "v3 refused"}));
  EXPECT_EQ(store_.status("a")->refused_version, "") << "that is about the stable version";
  version("a", "v3");
  scan();
  EXPECT_EQ(answering(), "v3");
  label("nonsense");
  EXPECT_EQ(scan(), Events{"refused a pointer serving"});
  EXPECT_EQ(scan(), Events{});
  EXPECT_EQ(answering(), "v3") << "a damaged label takes nothing away";
}

TEST_F(RegistryCanaryTest, PinnedAndUnloadedScenariosHaveNone) {
  canary("v2");
  scan();
  EXPECT_EQ(ask(watcher_, CommandVerb::kLoad, "a", "v1").code, CommandCode::kOk);
  EXPECT_EQ(answering(), "");
  EXPECT_EQ(versions("a"), (Events{"v1 serving stable", "v2 unloaded"}));
  EXPECT_EQ(ask(watcher_, CommandVerb::kUnpin, "a").code, CommandCode::kOk);
  scan();
  EXPECT_EQ(answering(), "v2");
  EXPECT_EQ(ask(watcher_, CommandVerb::kUnload, "a").code, CommandCode::kOk);
  EXPECT_EQ(answering(), "");
  EXPECT_EQ(versions("a"), (Events{"v1 unloaded", "v2 unloaded"}));
}

TEST_F(RegistryCanaryTest, WithoutAStableVersionThereIsNone) {
  version("b", "v1");
  write_file(registry_.root() / "scenarios/b/labels/canary", R"({"version": "v1", "percent": 5})");
  EXPECT_EQ(scan(), Events{});
  EXPECT_FALSE(store_.served("b").labels);
}

}  // namespace
}  // namespace smt::server
