// A scheduler on a binary that does what the test says, and works whose fate is recorded.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "program.h"
#include "registry_builder.h"
#include "scheduler.h"

namespace smt::server {

using namespace std::chrono_literals;

// One call of the binary.
struct BinaryRun {
  int64_t rows = 0;
  std::vector<float> scores;  // of each block of rows
};

// Scores a row as the first of its slot's packed floats. While closed, run() waits.
class ScriptedBinary final : public TemplateBinary {
 public:
  explicit ScriptedBinary(const Json& manifest = binary_manifest())
      : TemplateBinary(parse_binary_manifest(manifest.dump(), "manifest"), "binary") {}

  void run(std::span<const int32_t> block_slot, const transform::Batch& batch, std::vector<float>& out) const override {
    BinaryRun made{.rows = batch.rows, .scores = {}};
    for (int32_t slot : block_slot) {
      made.scores.push_back(*reinterpret_cast<const float*>(arena().slots + slot * manifest().packed_bytes));
    }
    {
      std::unique_lock lock(mutex_);
      runs_.push_back(made);
      changed_.notify_all();
      changed_.wait(lock, [this] { return open_; });
    }
    if (on_run) on_run(made);
    out.clear();
    for (int64_t row = 0; row < batch.rows; ++row) {
      out.insert(out.end(), static_cast<size_t>(manifest().tasks),
                 made.scores[static_cast<size_t>(row / cpu::kRowBlock)]);
    }
  }

  void close() {
    std::lock_guard lock(mutex_);
    open_ = false;
  }
  void open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  // Waits until so many calls began; returns all of them.
  std::vector<BinaryRun> runs(size_t count) const {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, 30s, [&] { return runs_.size() >= count; });
    return runs_;
  }

  std::function<void(const BinaryRun&)> on_run;  // may throw; set before the first work

 private:
  mutable std::mutex mutex_;  // guards open_ and runs_
  mutable std::condition_variable changed_;
  bool open_ = true;
  mutable std::vector<BinaryRun> runs_;
};

inline std::shared_ptr<const LoadedSnapshot> scripted_snapshot(const std::shared_ptr<const ScriptedBinary>& binary,
                                                               const std::string& scenario, float value) {
  WeightSlot weights = binary->allocate(kTableRows);
  *reinterpret_cast<float*>(weights.packed().data()) = value;
  return std::make_shared<const LoadedSnapshot>(
      LoadedSnapshot{.scenario = scenario,
                     .version = "v1",
                     .source = {"ranking", "1.0.0"},
                     .abi_hash = kAbi,
                     .tasks = {{"click", 0}},
                     .created = 1,
                     .features = transform::FeatureSpec::parse(features().dump()),
                     .binary = binary,
                     .weights = std::move(weights)});
}

// A work that waits to be asked for its fate.
class TestWork final : public Work {
 public:
  TestWork(Scheduler& scheduler, std::shared_ptr<const LoadedSnapshot> of, int64_t count)
      : ages_(static_cast<size_t>(count), 30.0F), cities_(static_cast<size_t>(count), "a") {
    snapshot = std::move(of);
    queue = &scheduler.queue(snapshot->scenario);
    rows = count;
    bytes = 1;
    arrived = Clock::now();
    columns_ = {{.name = "age", .values = transform::FloatValues(ages_), .lengths = {}},
                {.name = "city", .values = transform::StringValues(cities_), .lengths = {}}};
    snapshot->features.check(rows, {}, columns_, {}, columns);
  }

  void concluded(Drop drop) noexcept override {
    std::lock_guard lock(mutex_);
    ++times_;
    drop_ = drop;
    changed_.notify_all();
  }
  bool cancelled() const noexcept override { return is_cancelled.load(); }

  // Waits for the conclusion.
  Drop fate() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, 30s, [this] { return times_ > 0; })) << "was not concluded";
    return drop_;
  }
  int times() {
    std::lock_guard lock(mutex_);
    return times_;
  }
  bool scored(float value) const {
    return std::all_of(scores.begin(), scores.end(), [&](float score) { return score == value; }) &&
           scores.size() == static_cast<size_t>(rows) * 2;
  }

  std::atomic<bool> is_cancelled{false};

 private:
  std::vector<float> ages_;
  std::vector<std::string_view> cities_;
  std::vector<transform::Column> columns_;
  std::mutex mutex_;  // guards times_ and drop_
  std::condition_variable changed_;
  int times_ = 0;
  Drop drop_ = Drop::kNone;
};

class SchedulerTest : public testing::Test {
 protected:
  Scheduler& start(size_t workers, int64_t block_rows = 64, size_t queue_bytes = 1 << 20) {
    scheduler_ = std::make_unique<Scheduler>(
        Scheduler::Limits{.workers = workers, .block_rows = block_rows, .queue_bytes = queue_bytes},
        [this](const Scheduler::BlockReport& block) {
          padding += block.padding;
          expired_rows += block.expired_rows;
        });
    return *scheduler_;
  }
  std::shared_ptr<const LoadedSnapshot> scenario(const std::string& name, float value) {
    return scripted_snapshot(binary, name, value);
  }
  std::unique_ptr<TestWork> work(const std::shared_ptr<const LoadedSnapshot>& snapshot, int64_t rows,
                                 Work::Clock::duration within = 1h) {
    auto made = std::make_unique<TestWork>(*scheduler_, snapshot, rows);
    if (within < 1h) made->deadline = Work::Clock::now() + within;
    return made;
  }
  void submit(Work* one) { scheduler_->submit({&one, 1}); }
  // Has one work of so many rows scored; what it cost is known when the worker takes the next one.
  void score(const std::shared_ptr<const LoadedSnapshot>& snapshot, int64_t rows) {
    auto one = work(snapshot, rows);
    submit(one.get());
    EXPECT_EQ(one->fate(), Drop::kNone);
  }
  // Keeps the one worker busy until binary->open().
  std::unique_ptr<TestWork> occupy(const std::shared_ptr<const LoadedSnapshot>& snapshot) {
    binary->close();
    auto busy = work(snapshot, 16);
    submit(busy.get());
    binary->runs(1);
    return busy;
  }
  // Keeps one worker busy until open(), with a binary of its own: what `binary` costs stays unknown.
  class Blocker {
   public:
    explicit Blocker(SchedulerTest& test) : binary_(std::make_shared<ScriptedBinary>()) {
      binary_->close();
      work_ = test.work(scripted_snapshot(binary_, "blocker", 0.0F), 16);
      test.submit(work_.get());
      binary_->runs(1);
    }
    ~Blocker() { open(); }
    void open() {
      binary_->open();
      EXPECT_EQ(work_->fate(), Drop::kNone);
    }

   private:
    std::shared_ptr<ScriptedBinary> binary_;
    std::unique_ptr<TestWork> work_;
  };
  // The score of each call after the first one, once there are so many; for calls of one scenario each.
  std::vector<float> order(size_t count) {
    std::vector<float> out;
    std::vector<BinaryRun> runs = binary->runs(count + 1);
    for (size_t i = 1; i < runs.size(); ++i) out.push_back(runs[i].scores.front());
    return out;
  }

  std::shared_ptr<ScriptedBinary> binary = std::make_shared<ScriptedBinary>();
  std::atomic<int64_t> padding{0};
  std::atomic<int64_t> expired_rows{0};
  std::unique_ptr<Scheduler> scheduler_;
};

}  // namespace smt::server
