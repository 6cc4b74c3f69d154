// A registry under a watcher, with a loader that needs no weights, and notes of what the watcher reports.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <latch>
#include <optional>

#include "fake_snapshot.h"
#include "registry_builder.h"
#include "registry_watcher.h"

namespace smt::server {

// Notes what the watcher reports; thread-safe, so that tests can wait for the watcher's thread.
class Observer final : public WatchObserver {
 public:
  void found(const std::string& scenario) override { add("found " + scenario); }
  void serving(const LoadedSnapshot& snapshot, bool fresh) override {
    add((fresh ? "loaded " : "swapped ") + snapshot.scenario + " " + snapshot.version);
  }
  void refused(const std::string& scenario, Reason reason, bool serving) override {
    add("refused " + scenario + " " + std::string(reason_name(reason)) + (serving ? " serving" : ""));
  }
  void rolled_back(const std::string& scenario, AlarmCause cause) override {
    add("rolled back " + scenario + " " + std::string(alarm_cause_name(cause)));
  }
  void unloaded(const std::string& scenario) override { add("unloaded " + scenario); }
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
class WatchedRegistry : public ::testing::Test {
 protected:
  WatchedRegistry()
      : watcher_(Registry(registry_.root()), loader(), {.store = store_, .lifecycle = lifecycle_, .reaper = reaper_},
                 observer_, {}) {}

  LoadFunction loader() {
    return [this](const std::string& scenario, const std::string& version, const std::filesystem::path& folder,
                  TouchedFiles& touched, std::stop_token stop,
                  const AdmitFunction& admit) { return load(scenario, version, folder, touched, stop, admit); };
  }

  std::shared_ptr<const LoadedSnapshot> load(const std::string& scenario, const std::string& version,
                                             const std::filesystem::path& folder, TouchedFiles& touched,
                                             const std::stop_token& stop, const AdmitFunction& admit) {
    ++loads_;
    std::filesystem::path path = folder / "manifest.json";
    touched.add(path);
    std::string text = read_text(path, "manifest.json", 1000);
    admit(kFakeBytes, 0);
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
  // Submits a command and lets the watcher's next scan do it.
  static CommandOutcome ask(RegistryWatcher& watcher, CommandVerb verb, const std::string& scenario,
                            const std::string& version = "") {
    std::optional<CommandOutcome> outcome;
    watcher.commands().submit({.verb = verb,
                               .scenario = scenario,
                               .version = version,
                               .abandoned = {},
                               .done = [&](const CommandOutcome& done) { outcome = done; }});
    EXPECT_FALSE(outcome) << "done on the thread that asked";
    watcher.scan();
    EXPECT_TRUE(outcome);
    return outcome.value_or(CommandOutcome{});
  }

  RegistryBuilder registry_;
  // "version state label" of the scenario's versions, oldest first.
  Events versions(const std::string& scenario) {
    EXPECT_TRUE(reaper_.wait_idle(std::chrono::seconds(30)));
    Events out;
    for (const VersionStatus& each : lifecycle_.of(scenario)) {
      std::string text = each.version + " " + std::string(version_state_name(each.state));
      out.push_back(each.label.empty() ? text : text + " " + each.label);
    }
    return out;
  }

  Lifecycle lifecycle_;
  Reaper reaper_;
  ScenarioStore store_;
  Observer observer_;
  std::latch hanging_{1};
  std::atomic<int> loads_{0};
  RegistryWatcher watcher_;
};

}  // namespace smt::server
