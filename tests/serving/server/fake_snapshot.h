// Snapshots and template binaries for tests: real in everything but the compiled code.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "registry_builder.h"
#include "snapshot.h"

namespace smt::server {

// Scores every row as `score` of the weights; counts how many of its kind are alive.
class FakeBinary final : public TemplateBinary {
 public:
  using Score = std::function<float(const WeightsView&)>;

  explicit FakeBinary(BinaryManifest manifest, Score score = {})
      : TemplateBinary(std::move(manifest)), score_(std::move(score)) {
    ++alive();
  }
  ~FakeBinary() override { --alive(); }

  void run(const WeightsView& weights, const transform::Batch& batch, std::vector<float>& out) const override {
    float score = score_ ? score_(weights) : weights.slab[0];
    out.assign(static_cast<size_t>(batch.rows * manifest().tasks), score);
  }
  // Relaxed is enough: it is read when the threads that change it have been joined.
  static std::atomic<int>& alive() {
    static std::atomic<int> count{0};
    return count;
  }

 private:
  Score score_;
};

// A snapshot whose slab is all `value`. `on_free` runs when its last reference is dropped.
inline std::shared_ptr<const LoadedSnapshot> fake_snapshot(const std::string& scenario, const std::string& version,
                                                           float value = 0.5F, std::function<void()> on_free = {}) {
  Weights weights;
  weights.slab = AlignedFloats(kSlab);
  for (float& element : weights.slab.values()) element = value;
  weights.table = AlignedFloats(kTableRows * kDim);
  weights.table_rows = kTableRows;
  weights.dim = kDim;
  auto* snapshot = new LoadedSnapshot{
      .scenario = scenario,
      .version = version,
      .source = {"ranking", "1.0.0"},
      .abi_hash = kAbi,
      .tasks = {{"click", 0}},
      .created = 1,
      .features = transform::FeatureSpec::parse(features().dump()),
      .weights = std::move(weights),
      .binary = nullptr,
  };
  return {snapshot, [on_free = std::move(on_free)](const LoadedSnapshot* freed) {
            delete freed;
            if (on_free) on_free();
          }};
}

}  // namespace smt::server
