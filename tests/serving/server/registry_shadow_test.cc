// The shadow as the watcher follows it: its life beside the stable version's.
#include "watched_registry.h"

namespace smt::server {
namespace {

class RegistryShadowTest : public WatchedRegistry {
 protected:
  void SetUp() override {
    version("a", "v1");
    version("a", "v2");
    registry_.point("a", "v1");
    scan();
  }
  void label(const std::string& text, const std::string& name = "shadow") {
    write_file(registry_.root() / "scenarios/a/labels" / name, text);
  }
  void shadow(const std::string& name, double percent = 100) {
    label(nlohmann::json{{"version", name}, {"percent", percent}}.dump());
  }
  std::string shadowing() {
    auto served = store_.served("a");
    return served.shadow ? served.shadow->shadow->version + " of " + served.shadow->compared_with : "";
  }
};

TEST_F(RegistryShadowTest, FollowsTheLabel) {
  EXPECT_EQ(shadowing(), "");
  shadow("v2", 12.5);
  EXPECT_EQ(scan(), Events{});
  EXPECT_EQ(shadowing(), "v2 of v1");
  EXPECT_EQ(versions("a"), (Events{"v1 serving stable", "v2 serving shadow"}));
  EXPECT_EQ(serving("a"), "v1");
  EXPECT_FALSE(store_.served("a").labels) << "it answers nobody";

  auto divergence = store_.served("a").shadow->divergence;
  shadow("v2", 50);
  scan();
  EXPECT_EQ(store_.served("a").shadow->percent, 50);
  EXPECT_EQ(store_.served("a").shadow->divergence, divergence) << "what was compared still counts";

  std::filesystem::remove(registry_.root() / "scenarios/a/labels/shadow");
  scan();
  EXPECT_EQ(shadowing(), "");
  EXPECT_EQ(versions("a"), (Events{"v1 serving stable", "v2 unloaded"}));
}

TEST_F(RegistryShadowTest, ANewStableVersionOrShadowIsComparedAnew) {
  shadow("v2");
  scan();
  auto divergence = store_.served("a").shadow->divergence;
  version("a", "v3");
  registry_.point("a", "v3");
  scan();
  EXPECT_EQ(shadowing(), "v2 of v3");
  EXPECT_NE(store_.served("a").shadow->divergence, divergence);
  shadow("v1");
  scan();
  EXPECT_EQ(shadowing(), "v1 of v3");
  EXPECT_EQ(versions("a"), (Events{"v1 serving shadow", "v2 unloaded", "v3 serving stable"}));
  EXPECT_EQ(loads_, 3) << "v1 was warm";
}

TEST_F(RegistryShadowTest, PromotionNeedsNoLoad) {
  shadow("v2");
  scan();
  registry_.point("a", "v2");
  EXPECT_EQ(scan(), Events{"swapped a v2"});
  EXPECT_EQ(loads_, 2);
  EXPECT_EQ(shadowing(), "") << "it is the stable version now";
  EXPECT_EQ(versions("a"), (Events{"v1 warm", "v2 serving stable"}));
}

TEST_F(RegistryShadowTest, BesideACanary) {
  shadow("v2");
  label(R"({"version": "v2", "percent": 5})", "canary");
  scan();
  EXPECT_EQ(shadowing(), "v2 of v1");
  EXPECT_EQ(store_.served("a").labels->canary->version, "v2");
  EXPECT_EQ(versions("a"), (Events{"v1 serving stable", "v2 serving canary"}));
  version("a", "v3");
  shadow("v3");
  scan();
  EXPECT_EQ(shadowing(), "v3 of v1");
  EXPECT_EQ(versions("a"), (Events{"v1 serving stable", "v2 serving canary", "v3 serving shadow"}));
}

TEST_F(RegistryShadowTest, WhatCannotBeLoadedIsRefusedOnceAndDisturbsNothing) {
  version("a", "v3", "element 3 is not finite");
  shadow("v3");
  EXPECT_EQ(scan(), Events{"refused a weights serving"});
  EXPECT_EQ(scan(), Events{});
  EXPECT_EQ(shadowing(), "");
  EXPECT_EQ(versions("a"), (Events{"v1 serving stable", "v3 refused"}));
  EXPECT_EQ(store_.status("a")->refused_version, "") << "that is about the stable version";
  version("a", "v3");
  scan();
  EXPECT_EQ(shadowing(), "v3 of v1");
  label("nonsense");
  EXPECT_EQ(scan(), Events{"refused a pointer serving"});
  EXPECT_EQ(scan(), Events{});
  EXPECT_EQ(shadowing(), "v3 of v1") << "a damaged label takes nothing away";
}

TEST_F(RegistryShadowTest, PinnedAndUnloadedScenariosHaveNone) {
  shadow("v2");
  scan();
  EXPECT_EQ(ask(watcher_, CommandVerb::kLoad, "a", "v1").code, CommandCode::kOk);
  EXPECT_EQ(shadowing(), "");
  EXPECT_EQ(versions("a"), (Events{"v1 serving stable", "v2 unloaded"}));
  EXPECT_EQ(ask(watcher_, CommandVerb::kUnpin, "a").code, CommandCode::kOk);
  scan();
  EXPECT_EQ(shadowing(), "v2 of v1");
  EXPECT_EQ(ask(watcher_, CommandVerb::kUnload, "a").code, CommandCode::kOk);
  EXPECT_EQ(shadowing(), "");
  EXPECT_EQ(versions("a"), (Events{"v1 unloaded", "v2 unloaded"}));
}

TEST_F(RegistryShadowTest, WithoutShadowsNoneIsLoaded) {
  Lifecycle lifecycle;
  Reaper reaper;
  ScenarioStore store;
  RegistryWatcher watcher(Registry(registry_.root()), loader(),
                          {.store = store, .lifecycle = lifecycle, .reaper = reaper}, observer_, {.shadows = false});
  shadow("v2");
  watcher.scan();
  EXPECT_EQ(store.served("a").stable->version, "v1");
  EXPECT_FALSE(store.served("a").shadow);
  EXPECT_EQ(loads_, 2) << "v1 by each watcher";
}

// With room for two versions, or what the test says.
class RegistryShadowMemoryTest : public RegistryShadowTest {
 protected:
  void SetUp() override {
    version("a", "v1");
    version("a", "v2");
    version("a", "v3");
    registry_.point("a", "v1");
  }
  void start(int64_t versions) {
    limited_ = std::make_unique<RegistryWatcher>(
        Registry(registry_.root()), loader(),
        RegistryWatcher::Places{.store = store_, .lifecycle = lifecycle_, .reaper = reaper_}, observer_,
        RegistryWatcher::Rules{.retry = std::chrono::milliseconds(0), .memory_limit = versions * kFakeBytes + 1});
    look();
  }
  Events look() {
    limited_->scan();
    return observer_.take();
  }
  void TearDown() override {
    store_.clear();
    limited_.reset();
  }
  std::unique_ptr<RegistryWatcher> limited_;
};

TEST_F(RegistryShadowMemoryTest, WithoutMemoryForItTheStableVersionServesOn) {
  start(1);
  shadow("v2");
  EXPECT_EQ(look(), Events{"refused a memory serving"});
  EXPECT_EQ(shadowing(), "");
  EXPECT_EQ(serving("a"), "v1");
  EXPECT_EQ(versions("a"), (Events{"v1 serving stable", "v2 refused"}));
  EXPECT_TRUE(lifecycle_.of("a")[1].reason.starts_with("scenario 'a' version v2: needs "))
      << lifecycle_.of("a")[1].reason;
}

TEST_F(RegistryShadowMemoryTest, ItTakesNoMemoryFromWhatIsWarm) {
  start(2);
  registry_.point("a", "v2");
  look();
  shadow("v3");
  EXPECT_EQ(look(), Events{"refused a memory serving"});
  EXPECT_EQ(versions("a"), (Events{"v1 warm", "v2 serving stable", "v3 refused"}));
}

TEST_F(RegistryShadowMemoryTest, ItGivesWayToAStableVersionAndComesBack) {
  start(2);
  shadow("v2");
  EXPECT_EQ(look(), Events{});
  EXPECT_EQ(shadowing(), "v2 of v1");
  registry_.point("a", "v3");
  EXPECT_EQ(look().front(), "refused a memory serving");
  EXPECT_EQ(serving("a"), "v3");
  EXPECT_EQ(shadowing(), "");
  EXPECT_EQ(ask(*limited_, CommandVerb::kUnload, "a").code, CommandCode::kOk);
  EXPECT_EQ(ask(*limited_, CommandVerb::kLoad, "a").code, CommandCode::kOk);
  look();
  EXPECT_EQ(shadowing(), "v2 of v3");
}

}  // namespace
}  // namespace smt::server
