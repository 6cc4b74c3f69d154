#include <nlohmann/json.hpp>
#include <random>

#include "watched_registry.h"

namespace smt::server {
namespace {

using RegistryWatcherTest = WatchedRegistry;

TEST_F(RegistryWatcherTest, AnEmptyRegistryIsFine) {
  EXPECT_EQ(scan(), Events{});
  std::filesystem::create_directories(registry_.root() / "scenarios");
  EXPECT_EQ(scan(), Events{});
  EXPECT_TRUE(store_.names().empty());
}

TEST_F(RegistryWatcherTest, LoadsWhatIsThereAndWhatComesLater) {
  version("a", "v1");
  registry_.point("a", "v1\n");
  EXPECT_EQ(scan(), (Events{"found a", "loaded a v1"}));
  EXPECT_EQ(scan(), Events{}) << "nothing changed";

  version("b", "v7");
  EXPECT_EQ(scan(), Events{}) << "a version without a pointer is not published";
  registry_.point("b", "v7");
  EXPECT_EQ(scan(), (Events{"found b", "loaded b v7"}));

  version("a", "v2");
  registry_.point("a", "v2\n");
  EXPECT_EQ(scan(), Events{"loaded a v2"});
  registry_.point("a", "v1\n");
  EXPECT_EQ(scan(), Events{"swapped a v1"}) << "going back needs no load";
  EXPECT_EQ(serving("a"), "v1");
  EXPECT_EQ(serving("b"), "v7");
}

TEST_F(RegistryWatcherTest, RewritingThePointerWithTheSameVersionLoadsNothing) {
  version("a", "v1");
  registry_.point("a", "v1\n");
  scan();
  registry_.point("a", "v1\n");
  EXPECT_EQ(scan(), Events{});
  EXPECT_EQ(loads_, 1);
}

TEST_F(RegistryWatcherTest, ARefusedVersionIsRememberedAndTheOldOneServes) {
  version("a", "v1");
  registry_.point("a", "v1");
  scan();
  version("a", "v2", "element 3 is not finite");
  registry_.point("a", "v2");
  EXPECT_EQ(scan(), Events{"refused a weights serving"});
  EXPECT_EQ(serving("a"), "v1");
  EXPECT_EQ(store_.status("a")->refused_version, "v2");
  EXPECT_EQ(store_.status("a")->refused_reason, "element 3 is not finite");
  EXPECT_EQ(scan(), Events{});
  EXPECT_EQ(loads_, 2) << "not tried again while nothing changes";

  version("a", "v2");  // repaired in place
  EXPECT_EQ(scan(), Events{"loaded a v2"});
  EXPECT_EQ(store_.status("a")->refused_version, "");
}

TEST_F(RegistryWatcherTest, ARefusedVersionIsTriedAgainWhenAMissingFileAppears) {
  registry_.point("a", "v1");
  EXPECT_EQ(scan(), (Events{"found a", "refused a manifest"}));
  EXPECT_EQ(store_.status("a")->state, ScenarioState::kUnavailable);
  EXPECT_EQ(scan(), Events{});
  version("a", "v1");
  EXPECT_EQ(scan(), Events{"loaded a v1"});
}

TEST_F(RegistryWatcherTest, GoingBackToTheServedVersionClearsTheRefusal) {
  version("a", "v1");
  version("a", "v2", "bad");
  registry_.point("a", "v1");
  scan();
  registry_.point("a", "v2");
  scan();
  registry_.point("a", "v1");
  EXPECT_EQ(scan(), Events{});
  EXPECT_EQ(store_.status("a")->refused_version, "");
  EXPECT_EQ(loads_, 2) << "v1 was never given up";
  registry_.point("a", "v2");
  EXPECT_EQ(scan(), Events{"refused a weights serving"});
}

TEST_F(RegistryWatcherTest, AMalformedPointerIsRefusedOnce) {
  version("a", "v1");
  registry_.point("a", "v1");
  scan();
  for (const char* text : {"", "../../etc/passwd", "two words", "v1\nv2"}) {
    registry_.point("a", text);
    EXPECT_EQ(scan(), Events{"refused a pointer serving"}) << text;
    EXPECT_EQ(scan(), Events{}) << text;
    EXPECT_EQ(serving("a"), "v1");
    EXPECT_EQ(store_.status("a")->refused_version, "");
    EXPECT_NE(store_.status("a")->refused_reason.find("scenarios/a/current: found"), std::string::npos);
  }
  registry_.point("a", std::string(1 << 20, 'v'));
  EXPECT_EQ(scan(), Events{"refused a pointer serving"});
  registry_.point("a", "v1");
  EXPECT_EQ(scan(), Events{});
  EXPECT_EQ(store_.status("a")->refused_reason, "");
  registry_.point("b", "..");
  EXPECT_EQ(scan(), (Events{"found b", "refused b pointer"}));
}

TEST_F(RegistryWatcherTest, WhatDisappearsGoesOnBeingServed) {
  version("a", "v1");
  registry_.point("a", "v1");
  scan();
  std::filesystem::remove(registry_.root() / "scenarios" / "a" / "current");
  EXPECT_EQ(scan(), Events{});
  EXPECT_EQ(serving("a"), "v1");
  std::filesystem::remove_all(registry_.root() / "scenarios");
  EXPECT_EQ(scan(), Events{});
  EXPECT_EQ(serving("a"), "v1");
  std::filesystem::remove_all(registry_.root());
  EXPECT_EQ(scan(), Events{});
  EXPECT_EQ(serving("a"), "v1");
  version("a", "v2");
  registry_.point("a", "v2");
  EXPECT_EQ(scan(), Events{"loaded a v2"});
}

TEST_F(RegistryWatcherTest, StatusSaysThatThePointerIsMissing) {
  auto missing = [&] { std::filesystem::remove(registry_.root() / "scenarios" / "a" / "current"); };
  auto reason = [&] { return store_.status("a")->refused_reason; };
  constexpr const char* kMissing = "scenarios/a/current: no such file; expected a snapshot's version";
  registry_.point("a", "two words");
  EXPECT_EQ(scan(), (Events{"found a", "refused a pointer"}));
  EXPECT_NE(reason(), kMissing);
  missing();
  EXPECT_EQ(scan(), Events{});
  EXPECT_EQ(reason(), kMissing) << "not what the pointer that is gone was refused for";
  EXPECT_EQ(store_.status("a")->state, ScenarioState::kUnavailable);
  registry_.point("a", "two words");
  EXPECT_EQ(scan(), Events{"refused a pointer"});

  version("a", "v1");
  version("a", "v2", "bad");
  registry_.point("a", "v1");
  EXPECT_EQ(scan(), Events{"loaded a v1"});
  EXPECT_EQ(reason(), "");
  registry_.point("a", "v2");
  EXPECT_EQ(scan(), Events{"refused a weights serving"});
  missing();
  EXPECT_EQ(scan(), Events{});
  EXPECT_EQ(reason(), kMissing);
  EXPECT_EQ(store_.status("a")->refused_version, "");
  EXPECT_EQ(serving("a"), "v1");
  registry_.point("a", "v2");
  EXPECT_EQ(scan(), Events{"refused a weights serving"});
  registry_.point("a", "v1");
  EXPECT_EQ(scan(), Events{});
  EXPECT_EQ(reason(), "");
}

// Whatever bytes the files hold, the reason in the status is text.
TEST_F(RegistryWatcherTest, ReasonsOfAnyBytesAreUtf8) {
  std::mt19937 random(20240607);
  std::vector<std::string> texts{"\xed\xa0\x80", "\xff\xfe{", "\xc0\x80", "\xf4\x90\x80\x80"};
  for (int i = 0; i < 200; ++i) {
    std::string text(1 + random() % 100, '\0');
    for (char& c : text) c = static_cast<char>(random());
    texts.push_back(text + "\xff");
  }
  int seen = 0;
  for (const std::string& text : texts) {
    registry_.point("a", text);
    scan();
    version("b", "v1", text);  // this test's loader refuses with the file's text
    registry_.point("b", "v1");
    scan();
    for (const char* name : {"a", "b"}) {
      std::string reason = store_.status(name)->refused_reason;
      EXPECT_NO_THROW(nlohmann::json(reason).dump()) << testing::PrintToString(text);
      seen += reason.find("\\xff") != std::string::npos ? 1 : 0;
    }
  }
  EXPECT_GT(seen, 200);
}

TEST_F(RegistryWatcherTest, FoldersThatAreNoScenariosAreIgnored) {
  for (const char* name : {".tmp-1", "Bad Name", "x.y"}) {
    write_file(registry_.root() / "scenarios" / name / "current", "v1");
  }
  write_file(registry_.root() / "scenarios" / "file", "v1");
  EXPECT_EQ(scan(), Events{});
  EXPECT_TRUE(store_.names().empty());
}

TEST_F(RegistryWatcherTest, OneBadScenarioDoesNotKeepOthersFromLoading) {
  version("a", "v1", "bad");
  version("b", "v1");
  registry_.point("a", "v1");
  registry_.point("b", "v1");
  EXPECT_EQ(scan(), (Events{"found a", "refused a weights", "found b", "loaded b v1"}));
}

TEST_F(RegistryWatcherTest, ItsThreadTakesNewVersionsAndScenarios) {
  version("a", "v1");
  registry_.point("a", "v1");
  std::atomic<bool> hooked{false};
  watcher_.start(std::chrono::milliseconds(1), [&] { hooked = true; });
  EXPECT_TRUE(observer_.wait_for("loaded a v1"));
  EXPECT_TRUE(hooked);
  version("b", "v1");
  registry_.point("b", "v1");
  EXPECT_TRUE(observer_.wait_for("loaded b v1"));
  version("a", "v2", "bad");
  registry_.point("a", "v2");
  EXPECT_TRUE(observer_.wait_for("refused a weights serving"));
  observer_.wait_for_scans(3);
  watcher_.stop();
  EXPECT_EQ(loads_, 3) << "the refused version was tried once";
  EXPECT_EQ(serving("a"), "v1");
  watcher_.stop();
}

TEST_F(RegistryWatcherTest, ANewCurrentIsNotWaitedForUntilTheNextScan) {
  version("a", "v1");
  version("b", "v1");
  registry_.point("a", "v1");
  registry_.point("b", "v1");
  watcher_.start(std::chrono::hours(1));
  EXPECT_TRUE(observer_.wait_for("loaded b v1"));
  for (const char* next : {"v2", "v3"}) {
    version("a", next);
    registry_.point("a", next);
    EXPECT_TRUE(observer_.wait_for(std::string("loaded a ") + next));
  }
}

TEST_F(RegistryWatcherTest, StoppingInterruptsALoadAndRefusesNothing) {
  version("a", "v1", "hang");
  registry_.point("a", "v1");
  watcher_.start(std::chrono::milliseconds(1));
  hanging_.wait();
  watcher_.stop();
  EXPECT_EQ(observer_.take(), Events{"found a"});
  EXPECT_EQ(store_.status("a")->refused_reason, "");
}

TEST_F(RegistryWatcherTest, AFileSystemFailureIsTriedAgainAfterAWhile) {
  version("a", "v1", "io");
  registry_.point("a", "v1");
  EXPECT_EQ(scan(), (Events{"found a", "refused a io"}));
  EXPECT_EQ(scan(), Events{}) << "but not at once";
  EXPECT_EQ(loads_, 1);

  ScenarioStore store;
  RegistryWatcher impatient(Registry(registry_.root()), loader(),
                            {.store = store, .lifecycle = lifecycle_, .reaper = reaper_}, observer_,
                            {.retry = std::chrono::milliseconds(0)});
  impatient.scan();
  EXPECT_EQ(observer_.take(), (Events{"found a", "refused a io"}));
  impatient.scan();
  EXPECT_EQ(observer_.take(), Events{"refused a io"}) << "nothing changed, and it is tried again";
}

}  // namespace
}  // namespace smt::server
