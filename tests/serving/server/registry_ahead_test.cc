// Versions that are loaded while they are being published, before `current` names them.
#include <filesystem>
#include <string>

#include "temporary_folder.h"
#include "watched_registry.h"

namespace smt::server {
namespace {

constexpr std::chrono::hours kNever{1};  // so that only what the kernel tells is seen

class RegistryAhead : public WatchedRegistry {
 protected:
  RegistryAhead() {
    version("a", "v1");
    point("v1");
  }

  // As LocalStorage.replace_text: a file is replaced by a rename.
  void replace(const std::string& name, const std::string& text) {
    const auto folder = registry_.root() / "scenarios" / "a";
    write_file(folder / ".tmp-file", text);
    std::filesystem::rename(folder / ".tmp-file", folder / name);
  }
  void point(const std::string& name) { replace("current", name + "\n"); }
  void stage(const std::string& folder, const std::string& text = "good") {
    write_file(registry_.version_dir("a", folder) / "manifest.json", text);
  }
  void announce(const std::string& name, const std::string& folder) { replace("next", name + " " + folder + "\n"); }
  void withdraw() { std::filesystem::remove(registry_.root() / "scenarios/a/next"); }
  void commit(const std::string& folder, const std::string& name) {
    std::filesystem::rename(registry_.version_dir("a", folder), registry_.version_dir("a", name));
    point(name);
    withdraw();
  }
  // Serves v1, on a thread.
  void start(RegistryWatcher& watcher) {
    watcher.start(kNever);
    ASSERT_TRUE(observer_.wait_for("loaded a v1"));
    observer_.take();
  }
  // Waits for the thread, which a command would interrupt in what it loads.
  void wait_for_versions(const Events& expected) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (versions("a") != expected && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    EXPECT_EQ(versions("a"), expected);
  }
  // What was asked for before is done: the first command may come before it in the same round, the second does not.
  static void wait_idle(RegistryWatcher& watcher) {
    for (int i = 0; i < 2; ++i) tell(watcher, CommandVerb::kRollback, "nobody");
  }
  // Submits a command to the thread, and returns when it is done.
  static CommandOutcome tell(RegistryWatcher& watcher, CommandVerb verb, const std::string& scenario) {
    CommandOutcome outcome;
    std::latch done{1};
    watcher.commands().submit(
        {.verb = verb, .scenario = scenario, .version = "", .abandoned = {}, .done = [&](const CommandOutcome& found) {
           outcome = found;
           done.count_down();
         }});
    done.wait();
    return outcome;
  }
};

TEST_F(RegistryAhead, WhatIsAnnouncedIsLoadedAndServedWithoutAnotherLoad) {
  start(watcher_);
  stage(".tmp-1");
  announce("v2", ".tmp-1");
  wait_for_versions(Events{"v1 serving stable", "v2 warm"});
  EXPECT_EQ(loads_, 2);
  EXPECT_EQ(observer_.take(), Events{});
  EXPECT_EQ(serving("a"), "v1");

  commit(".tmp-1", "v2");
  ASSERT_TRUE(observer_.wait_for("loaded a v2"));
  EXPECT_EQ(loads_, 2);
  EXPECT_EQ(serving("a"), "v2");
  wait_for_versions(Events{"v1 warm", "v2 serving stable"});
}

TEST_F(RegistryAhead, WhatDoesNotComeIsLetGoOf) {
  start(watcher_);
  stage(".tmp-1");
  announce("v2", ".tmp-1");
  wait_for_versions(Events{"v1 serving stable", "v2 warm"});
  watcher_.stop();
  withdraw();
  scan();
  EXPECT_EQ(versions("a"), (Events{"v1 serving stable", "v2 unloaded"}));
  EXPECT_EQ(serving("a"), "v1");
  EXPECT_EQ(lifecycle_.resident_bytes(), kFakeBytes);
}

TEST_F(RegistryAhead, AnotherAnnouncementTakesThePlaceOfTheFirst) {
  start(watcher_);
  stage(".tmp-1");
  announce("v2", ".tmp-1");
  wait_for_versions(Events{"v1 serving stable", "v2 warm"});
  stage(".tmp-2");
  announce("v3", ".tmp-2");
  wait_for_versions(Events{"v1 serving stable", "v2 unloaded", "v3 warm"});
  EXPECT_EQ(loads_, 3);
  commit(".tmp-2", "v3");
  ASSERT_TRUE(observer_.wait_for("loaded a v3"));
  EXPECT_EQ(loads_, 3);
}

TEST_F(RegistryAhead, WhatIsWrongIsReportedWhenCurrentNamesIt) {
  start(watcher_);
  stage(".tmp-1", "broken");
  announce("v2", ".tmp-1");
  wait_for_versions(Events{"v1 serving stable", "v2 unloaded"});
  EXPECT_EQ(loads_, 2);
  EXPECT_EQ(observer_.take(), Events{});  // and no refusal
  EXPECT_EQ(store_.status("a")->refused_reason, "");
  commit(".tmp-1", "v2");
  ASSERT_TRUE(observer_.wait_for("refused a weights serving"));
  EXPECT_EQ(loads_, 3);
  EXPECT_EQ(serving("a"), "v1");
}

TEST_F(RegistryAhead, FilesThatMovedWhileTheyWereReadAreNoFault) {
  start(watcher_);
  announce("v2", ".tmp-1");  // and there is no such folder any more
  wait_for_versions(Events{"v1 serving stable", "v2 unloaded"});
  EXPECT_EQ(loads_, 2);
  version("a", "v2");
  point("v2");
  ASSERT_TRUE(observer_.wait_for("loaded a v2"));
}

TEST_F(RegistryAhead, ItTakesNobodysMemory) {
  RegistryWatcher limited{Registry(registry_.root()),
                          loader(),
                          {.store = store_, .lifecycle = lifecycle_, .reaper = reaper_},
                          observer_,
                          {.memory_limit = 2 * kFakeBytes + 1}};
  start(limited);
  version("a", "v2");
  point("v2");
  ASSERT_TRUE(observer_.wait_for("loaded a v2"));
  stage(".tmp-1");
  announce("v3", ".tmp-1");
  wait_for_versions(Events{"v1 warm", "v2 serving stable", "v3 unloaded"});
  EXPECT_EQ(loads_, 3);
  commit(".tmp-1", "v3");
  ASSERT_TRUE(observer_.wait_for("loaded a v3"));
  limited.stop();
  EXPECT_EQ(serving("a"), "v3");
}

TEST_F(RegistryAhead, AnUnloadedScenarioHoldsNothing) {
  start(watcher_);
  stage(".tmp-1");
  announce("v2", ".tmp-1");
  wait_for_versions(Events{"v1 serving stable", "v2 warm"});
  EXPECT_EQ(tell(watcher_, CommandVerb::kUnload, "a").code, CommandCode::kOk);
  EXPECT_EQ(versions("a"), (Events{"v1 unloaded", "v2 unloaded"}));
  EXPECT_EQ(lifecycle_.resident_bytes(), 0);
}

TEST_F(RegistryAhead, NonsenseIsIgnored) {
  start(watcher_);
  stage(".tmp-1");
  for (const char* text :
       {"", "v2", "v2 .tmp-1", "v2 tmp-1\n", "v2 ../../b\n", "v2 ./x\n", "../v2 .tmp-1\n", " .tmp-1\n"}) {
    replace("next", text);
    wait_idle(watcher_);
  }
  EXPECT_EQ(loads_, 1);
  EXPECT_EQ(versions("a"), (Events{"v1 serving stable"}));
}

}  // namespace
}  // namespace smt::server
