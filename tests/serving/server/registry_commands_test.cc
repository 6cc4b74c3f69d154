#include "registry_commands.h"

#include <thread>

#include "watched_registry.h"

namespace smt::server {
namespace {

using Code = CommandCode;

class RegistryCommandsTest : public WatchedRegistry {
 protected:
  // Two versions of "a", the second of which is served, after the first.
  void SetUp() override {
    version("a", "v1");
    version("a", "v2");
    registry_.point("a", "v1");
    scan();
    registry_.point("a", "v2");
    scan();
  }
  Code code(CommandVerb verb, const std::string& scenario, const std::string& version = "") {
    return ask(watcher_, verb, scenario, version).code;
  }
  ScenarioStatus status(const std::string& scenario = "a") { return *store_.status(scenario); }
};

TEST_F(RegistryCommandsTest, LoadOfAVersionPinsIt) {
  EXPECT_EQ(code(CommandVerb::kLoad, "a", "v1"), Code::kOk);
  EXPECT_EQ(observer_.take(), Events{"swapped a v1"});
  EXPECT_EQ(serving("a"), "v1");
  EXPECT_TRUE(status().control.pinned);
  EXPECT_EQ(status().control.rollback_version, "v2");
  EXPECT_EQ(scan(), Events{}) << "the registry names v2, and v1 is pinned";
  version("a", "v3");
  registry_.point("a", "v3");
  EXPECT_EQ(scan(), Events{});
  EXPECT_EQ(code(CommandVerb::kLoad, "a", "v1"), Code::kOk);
  EXPECT_EQ(observer_.take(), Events{}) << "it is so already";

  EXPECT_EQ(code(CommandVerb::kUnpin, "a"), Code::kOk);
  EXPECT_EQ(observer_.take(), Events{"loaded a v3"});
  EXPECT_FALSE(status().control.pinned);
  EXPECT_EQ(code(CommandVerb::kUnpin, "a"), Code::kOk);
  registry_.point("a", "v2");
  EXPECT_EQ(scan(), Events{"loaded a v2"}) << "the registry decides again";
}

TEST_F(RegistryCommandsTest, LoadPinsWhatIsServedAlready) {
  EXPECT_EQ(code(CommandVerb::kLoad, "a", "v2"), Code::kOk);
  registry_.point("a", "v1");
  EXPECT_EQ(scan(), Events{});
  EXPECT_EQ(code(CommandVerb::kLoad, "a"), Code::kOk) << "without a version: what the registry names";
  EXPECT_EQ(observer_.take(), Events{"swapped a v1"});
  EXPECT_FALSE(status().control.pinned);
}

TEST_F(RegistryCommandsTest, ALoadThatIsRefusedSaysWhyAndChangesNothing) {
  observer_.take();
  version("a", "bad", "element 7 is not finite");
  CommandOutcome outcome = ask(watcher_, CommandVerb::kLoad, "a", "bad");
  EXPECT_EQ(outcome.code, Code::kFailedPrecondition);
  EXPECT_EQ(outcome.message, "element 7 is not finite");
  EXPECT_EQ(observer_.take(), Events{"refused a weights serving"});
  EXPECT_EQ(serving("a"), "v2");
  EXPECT_FALSE(status().control.pinned);
  EXPECT_EQ(scan(), Events{});
  EXPECT_EQ(status().refused_version, "bad") << "shown until something else is loaded";
  registry_.point("a", "v1");
  EXPECT_EQ(scan(), Events{"swapped a v1"});
  EXPECT_EQ(status().refused_version, "");

  ASSERT_EQ(code(CommandVerb::kLoad, "a", "v2"), Code::kOk);
  observer_.take();
  EXPECT_EQ(code(CommandVerb::kLoad, "a", "bad"), Code::kFailedPrecondition);
  EXPECT_EQ(serving("a"), "v2");
  EXPECT_TRUE(status().control.pinned) << "the older pin holds";
  registry_.point("a", "bad");
  EXPECT_EQ(code(CommandVerb::kUnpin, "a"), Code::kFailedPrecondition);
  EXPECT_EQ(serving("a"), "v2");
  EXPECT_FALSE(status().control.pinned) << "the registry decides, though what it names was refused";
  observer_.take();
  EXPECT_EQ(scan(), Events{}) << "and it is not tried again";
}

TEST_F(RegistryCommandsTest, LoadTriesAgainWhatWasRefused) {
  version("a", "v3", "bad");
  registry_.point("a", "v3");
  EXPECT_EQ(scan(), Events{"refused a weights serving"});
  EXPECT_EQ(code(CommandVerb::kLoad, "a"), Code::kFailedPrecondition);
  EXPECT_EQ(observer_.take(), Events{"refused a weights serving"});
  version("a", "v3");
  EXPECT_EQ(code(CommandVerb::kLoad, "a"), Code::kOk);
  EXPECT_EQ(serving("a"), "v3");
}

TEST_F(RegistryCommandsTest, UnloadedStaysSoUntilLoad) {
  observer_.take();
  EXPECT_EQ(code(CommandVerb::kUnload, "a"), Code::kOk);
  EXPECT_EQ(observer_.take(), Events{"unloaded a"});
  EXPECT_EQ(store_.find("a"), nullptr);
  EXPECT_EQ(status().state, ScenarioState::kUnloaded);
  EXPECT_EQ(status().version, "");
  EXPECT_EQ(code(CommandVerb::kUnload, "a"), Code::kOk);
  version("a", "v3");
  registry_.point("a", "v3");
  EXPECT_EQ(scan(), Events{}) << "whatever is published";
  for (CommandVerb verb : {CommandVerb::kUnpin, CommandVerb::kRollback}) {
    CommandOutcome outcome = ask(watcher_, verb, "a");
    EXPECT_EQ(outcome.code, Code::kFailedPrecondition);
    EXPECT_NE(outcome.message.find("unloaded"), std::string::npos) << outcome.message;
  }
  version("a", "bad", "bad");
  EXPECT_EQ(code(CommandVerb::kLoad, "a", "bad"), Code::kFailedPrecondition);
  EXPECT_EQ(status().state, ScenarioState::kUnloaded);

  EXPECT_EQ(code(CommandVerb::kLoad, "a"), Code::kOk);
  EXPECT_EQ(serving("a"), "v3");
  EXPECT_EQ(status().control.rollback_version, "v2") << "what was served before the unload";
  EXPECT_EQ(code(CommandVerb::kUnload, "a"), Code::kOk);
  EXPECT_EQ(code(CommandVerb::kLoad, "a", "v2"), Code::kOk);
  EXPECT_EQ(status().state, ScenarioState::kServing);
  EXPECT_TRUE(status().control.pinned);
}

TEST_F(RegistryCommandsTest, UnloadEndsAPinAndLoadFollowsTheRegistry) {
  ASSERT_EQ(code(CommandVerb::kLoad, "a", "v1"), Code::kOk);
  ASSERT_EQ(code(CommandVerb::kUnload, "a"), Code::kOk);
  ASSERT_EQ(code(CommandVerb::kLoad, "a"), Code::kOk);
  EXPECT_EQ(serving("a"), "v2");
  EXPECT_FALSE(status().control.pinned);
}

// The last reference frees, wherever it is held.
TEST_F(RegistryCommandsTest, AnUnloadedSnapshotLivesAsLongAsARequestUsesIt) {
  std::weak_ptr<const LoadedSnapshot> weights = store_.find("a");
  std::shared_ptr<const LoadedSnapshot> request = weights.lock();
  ASSERT_EQ(code(CommandVerb::kUnload, "a"), Code::kOk);
  EXPECT_FALSE(weights.expired());
  EXPECT_EQ(versions("a"), (Events{"v1 unloaded", "v2 draining"}));
  request.reset();
  EXPECT_TRUE(weights.expired());
  EXPECT_EQ(versions("a"), (Events{"v1 unloaded", "v2 unloaded"}));
}

TEST_F(RegistryCommandsTest, WhatWasNeverLoadedCanBeUnloaded) {
  version("b", "v1");
  registry_.point("b", "v1");
  EXPECT_EQ(code(CommandVerb::kUnload, "b"), Code::kOk);
  EXPECT_EQ(status("b").state, ScenarioState::kUnloaded);
  EXPECT_EQ(status("b").loads, 0);
}

TEST_F(RegistryCommandsTest, RollbackGoesOneBackAndRepeatsWithoutEffect) {
  observer_.take();
  EXPECT_EQ(status().control.rollback_version, "v1");
  EXPECT_EQ(code(CommandVerb::kRollback, "a"), Code::kOk);
  EXPECT_EQ(observer_.take(), Events{"swapped a v1"}) << "it was warm";
  EXPECT_TRUE(status().control.pinned);
  EXPECT_EQ(status().control.rollback_version, "");
  EXPECT_EQ(scan(), Events{}) << "though the registry names v2";
  EXPECT_EQ(code(CommandVerb::kRollback, "a"), Code::kOk) << "as by a client that missed the answer";
  EXPECT_EQ(serving("a"), "v1");

  EXPECT_EQ(code(CommandVerb::kUnpin, "a"), Code::kOk);
  EXPECT_EQ(serving("a"), "v2");
  EXPECT_EQ(code(CommandVerb::kRollback, "a"), Code::kOk);
  EXPECT_EQ(serving("a"), "v1");
}

TEST_F(RegistryCommandsTest, RollbackNeedsAVersionToGoBackTo) {
  version("b", "v1");
  registry_.point("b", "v1");
  scan();
  EXPECT_EQ(code(CommandVerb::kRollback, "b"), Code::kFailedPrecondition);
  // What is warm needs no file; what is not has to be in the registry.
  ASSERT_EQ(code(CommandVerb::kUnload, "a"), Code::kOk);
  ASSERT_EQ(code(CommandVerb::kLoad, "a", "v1"), Code::kOk);
  ASSERT_EQ(code(CommandVerb::kUnload, "a"), Code::kOk);
  ASSERT_EQ(code(CommandVerb::kLoad, "a"), Code::kOk);
  std::filesystem::remove_all(registry_.version_dir("a", "v1"));
  CommandOutcome outcome = ask(watcher_, CommandVerb::kRollback, "a");
  EXPECT_EQ(outcome.code, Code::kNotFound);
  EXPECT_NE(outcome.message.find("scenarios/a/versions/v1"), std::string::npos) << outcome.message;
  EXPECT_EQ(serving("a"), "v2");
  EXPECT_FALSE(status().control.pinned);
  version("a", "v1", "bad");
  EXPECT_EQ(code(CommandVerb::kRollback, "a"), Code::kFailedPrecondition);
  EXPECT_EQ(serving("a"), "v2");
}

TEST_F(RegistryCommandsTest, NamesAreCheckedBeforeTheyBecomePaths) {
  observer_.take();
  for (const char* name : {"", "..", "a/../a", "A", "a b"}) {
    EXPECT_EQ(code(CommandVerb::kUnload, name), Code::kInvalidArgument) << name;
  }
  for (const char* version : {"..", "../../b", "v 1", "v1\n"}) {
    EXPECT_EQ(code(CommandVerb::kLoad, "a", version), Code::kInvalidArgument) << version;
  }
  for (CommandVerb verb : {CommandVerb::kLoad, CommandVerb::kUnload, CommandVerb::kRollback, CommandVerb::kUnpin}) {
    CommandOutcome outcome = ask(watcher_, verb, "aa");
    EXPECT_EQ(outcome.code, Code::kNotFound);
    EXPECT_EQ(outcome.message, "scenario: 'aa' is not in the registry; nearest: a");
  }
  EXPECT_EQ(code(CommandVerb::kLoad, "a", "v9"), Code::kNotFound);
  EXPECT_EQ(observer_.take(), Events{});
  EXPECT_EQ(store_.names(), std::vector<std::string>{"a"});
}

TEST_F(RegistryCommandsTest, AVersionNeedsNoPointer) {
  version("b", "v1");
  EXPECT_EQ(code(CommandVerb::kLoad, "b"), Code::kFailedPrecondition);
  EXPECT_EQ(code(CommandVerb::kLoad, "b", "v1"), Code::kOk);
  EXPECT_EQ(serving("b"), "v1");
}

TEST_F(RegistryCommandsTest, AnAbandonedCommandChangesNothing) {
  std::stop_source nobody_waits;
  std::optional<CommandOutcome> outcome;
  auto submit = [&](CommandVerb verb, const std::string& version) {
    outcome.reset();
    watcher_.commands().submit({.verb = verb,
                                .scenario = "a",
                                .version = version,
                                .abandoned = nobody_waits.get_token(),
                                .done = [&](const CommandOutcome& done) { outcome = done; }});
  };
  version("a", "slow", "hang");
  submit(CommandVerb::kLoad, "slow");  // given up while it is loaded
  {
    std::jthread leaves([&] {
      hanging_.wait();
      nobody_waits.request_stop();
    });
    watcher_.scan();
  }
  ASSERT_TRUE(outcome);
  EXPECT_EQ(outcome->code, Code::kCancelled);
  submit(CommandVerb::kUnload, "");  // given up before it began
  watcher_.scan();
  EXPECT_EQ(outcome->code, Code::kCancelled);
  EXPECT_EQ(serving("a"), "v2");
  EXPECT_EQ(status().refused_version, "");
  EXPECT_FALSE(status().control.pinned);
}

TEST_F(RegistryCommandsTest, AStopAnswersWhatIsDoneAndWhatWaits) {
  std::vector<CommandOutcome> outcomes;  // joined before it is read
  std::mutex mutex;                      // guards outcomes
  auto submit = [&](const std::string& version) {
    watcher_.commands().submit({.verb = CommandVerb::kLoad,
                                .scenario = "a",
                                .version = version,
                                .abandoned = {},
                                .done = [&](const CommandOutcome& done) {
                                  std::lock_guard lock(mutex);
                                  outcomes.push_back(done);
                                }});
  };
  version("a", "slow", "hang");
  watcher_.start(std::chrono::milliseconds(1));
  submit("slow");
  hanging_.wait();
  submit("v1");
  watcher_.stop();
  submit("v1");
  ASSERT_EQ(outcomes.size(), 3U);
  for (const CommandOutcome& outcome : outcomes) EXPECT_EQ(outcome.code, Code::kUnavailable);
  EXPECT_EQ(serving("a"), "v2");
}

TEST_F(RegistryCommandsTest, ACommandWakesTheThread) {
  observer_.take();
  watcher_.start(std::chrono::hours(1));
  observer_.wait_for_scans(1);
  std::latch done(1);
  watcher_.commands().submit({.verb = CommandVerb::kRollback,
                              .scenario = "a",
                              .version = "",
                              .abandoned = {},
                              .done = [&](const CommandOutcome&) { done.count_down(); }});
  done.wait();
  EXPECT_EQ(serving("a"), "v1");
}

TEST_F(RegistryCommandsTest, TooManyAreRefusedAtOnce) {
  size_t answered = 0;
  CommandOutcome last;
  auto submit = [&] {
    watcher_.commands().submit({.verb = CommandVerb::kUnpin,
                                .scenario = "a",
                                .version = "",
                                .abandoned = {},
                                .done = [&](const CommandOutcome& done) {
                                  ++answered;
                                  last = done;
                                }});
  };
  for (size_t i = 0; i < RegistryCommands::kMostWaiting; ++i) submit();
  EXPECT_EQ(answered, 0U);
  submit();
  EXPECT_EQ(answered, 1U);
  EXPECT_EQ(last.code, Code::kResourceExhausted);
  watcher_.scan();
  EXPECT_EQ(answered, RegistryCommands::kMostWaiting + 1);
  EXPECT_EQ(last.code, Code::kOk);
}

TEST_F(RegistryCommandsTest, ConcurrentCommandsAreDoneOneAfterAnother) {
  watcher_.start(std::chrono::milliseconds(1));
  std::latch done(4 * 50);
  std::atomic<int> good{0};
  std::vector<std::jthread> clients;
  for (int client = 0; client < 4; ++client) {
    clients.emplace_back([&, client] {
      for (int i = 0; i < 50; ++i) {
        watcher_.commands().submit({.verb = i % 5 == 4 ? CommandVerb::kUnload : CommandVerb::kLoad,
                                    .scenario = "a",
                                    .version = i % 5 == 4         ? ""
                                               : (i + client) % 2 ? "v1"
                                                                  : "v2",
                                    .abandoned = {},
                                    .done = [&](const CommandOutcome& outcome) {
                                      good += outcome.code == Code::kOk ? 1 : 0;
                                      done.count_down();
                                    }});
      }
    });
  }
  done.wait();
  EXPECT_EQ(good, 200);
  ASSERT_EQ(store_.status("a")->version.empty(), store_.status("a")->state == ScenarioState::kUnloaded);
}

}  // namespace
}  // namespace smt::server
