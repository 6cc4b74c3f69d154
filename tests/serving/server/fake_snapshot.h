// Snapshots and template binaries for tests: real in everything but the compiled code.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "registry_builder.h"
#include "snapshot.h"

namespace smt::server {

inline std::span<const float> as_floats(std::span<const std::byte> packed) {
  return {reinterpret_cast<const float*>(packed.data()), packed.size() / sizeof(float)};
}

// The packed float at this byte.
inline float packed_float(const WeightsView& weights, int64_t at) {
  return as_floats(weights.packed)[static_cast<size_t>(at) / sizeof(float)];
}

// Packs as every binary does. Scores every row as `score` of the weights, by default the first head's bias; counts how
// many of its kind are alive.
class FakeBinary final : public TemplateBinary {
 public:
  using Score = std::function<float(const WeightsView&)>;

  explicit FakeBinary(BinaryManifest manifest, Score score = {})
      : TemplateBinary(std::move(manifest), "binary"), score_(std::move(score)) {
    ++alive();
  }
  ~FakeBinary() override { --alive(); }

  void run(const WeightsView& weights, const transform::Batch& batch, std::vector<float>& out) const override {
    float score = score_ ? score_(weights) : packed_float(weights, kPackedHeadBias);
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

// A snapshot whose packed weights are all the float `value`. `on_free` runs when its last reference is dropped.
inline std::shared_ptr<const LoadedSnapshot> fake_snapshot(const std::string& scenario, const std::string& version,
                                                           float value = 0.5F, std::function<void()> on_free = {}) {
  AlignedArray<std::byte> packed(kPacked);
  auto* floats = reinterpret_cast<float*>(packed.values().data());
  std::fill_n(floats, packed.bytes() / sizeof(float), value);
  auto* snapshot = new LoadedSnapshot{
      .scenario = scenario,
      .version = version,
      .source = {"ranking", "1.0.0"},
      .abi_hash = kAbi,
      .tasks = {{"click", 0}},
      .created = 1,
      .features = transform::FeatureSpec::parse(features().dump()),
      .packed = std::move(packed),
      .table = AlignedArray<float>(kTableRows * kDim),
      .table_rows = kTableRows,
      .binary = nullptr,
  };
  return {snapshot, [on_free = std::move(on_free)](const LoadedSnapshot* freed) {
            delete freed;
            if (on_free) on_free();
          }};
}

}  // namespace smt::server
