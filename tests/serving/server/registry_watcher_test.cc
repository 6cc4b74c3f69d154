#include "registry_watcher.h"

#include <gtest/gtest.h>

#include <latch>
#include <random>

#include "fake_snapshot.h"
#include "registry_builder.h"

namespace smt::server {
namespace {

// Notes what the watcher reports; thread-safe, so that tests can wait for the watcher's thread.
class Observer final : public WatchObserver {
 public:
  void found(const std::string& scenario) override { add("found " + scenario); }
  void loaded(const LoadedSnapshot& snapshot) override { add("loaded " + snapshot.scenario + " " + snapshot.version); }
  void refused(const std::string& scenario, Reason reason, bool serving) override {
    add("refused " + scenario + " " + std::string(reason_name(reason)) + (serving ? " serving" : ""));
  }
  void scanned() override {
    std::lock_guard lock(mutex_);
    ++scans_;
    changed_.notify_all();
  }

  std::vector<std::string> take() {
    std::lock_guard lock(mutex_);
    return std::exchange(events_, {});
  }
  bool wait_for(const std::string& event) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(30),
                             [&] { return std::find(events_.begin(), events_.end(), event) != events_.end(); });
  }
  void wait_for_scans(int more) {
    std::unique_lock lock(mutex_);
    int until = scans_ + more;
    changed_.wait_for(lock, std::chrono::seconds(30), [&] { return scans_ >= until; });
  }

 private:
  void add(std::string event) {
    std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    changed_.notify_all();
  }
  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::vector<std::string> events_;
  int scans_ = 0;
};

using Events = std::vector<std::string>;

// The loader of these tests: a version is good if its manifest.json says "good"; otherwise the text is the reason.
class RegistryWatcherTest : public ::testing::Test {
 protected:
  RegistryWatcherTest()
      : watcher_(
            Registry(registry_.root()),
            [this](const std::string& scenario, const std::string& version, TouchedFiles& touched,
                   std::stop_token stop) { return load(scenario, version, touched, stop); },
            store_, observer_) {}

  std::shared_ptr<const LoadedSnapshot> load(const std::string& scenario, const std::string& version,
                                             TouchedFiles& touched, const std::stop_token& stop) {
    ++loads_;
    std::filesystem::path path = registry_.version_dir(scenario, version) / "manifest.json";
    touched.add(path);
    std::string text = read_text(path, "manifest.json", 1000);
    if (text == "hang") {
      hanging_.count_down();
      while (!stop.stop_requested()) std::this_thread::yield();
      throw Refused(Reason::kIo, "stopped");
    }
    if (text == "io") throw Refused(Reason::kIo, "the disk is unwell");
    if (text != "good") throw Refused(Reason::kWeights, text);
    return fake_snapshot(scenario, version);
  }
  void version(const std::string& scenario, const std::string& name, const std::string& text = "good") {
    write_file(registry_.version_dir(scenario, name) / "manifest.json", text);
  }
  std::string serving(const std::string& scenario) {
    auto snapshot = store_.find(scenario);
    return snapshot ? snapshot->version : "";
  }
  Events scan() {
    watcher_.scan();
    return observer_.take();
  }

  RegistryBuilder registry_;
  ScenarioStore store_;
  Observer observer_;
  std::latch hanging_{1};
  std::atomic<int> loads_{0};
  RegistryWatcher watcher_;
};

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
  EXPECT_EQ(scan(), Events{"loaded a v1"}) << "going back is a change as any other";
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

  auto loader = [this](const std::string& scenario, const std::string& version, TouchedFiles& touched,
                       std::stop_token stop) { return load(scenario, version, touched, stop); };
  ScenarioStore store;
  RegistryWatcher impatient(Registry(registry_.root()), loader, store, observer_, std::chrono::milliseconds(0));
  impatient.scan();
  EXPECT_EQ(observer_.take(), (Events{"found a", "refused a io"}));
  impatient.scan();
  EXPECT_EQ(observer_.take(), Events{"refused a io"}) << "nothing changed, and it is tried again";
}

}  // namespace
}  // namespace smt::server
