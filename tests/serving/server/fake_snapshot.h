// Snapshots and template binaries for tests: real in everything but the compiled code.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "program.h"
#include "registry_builder.h"
#include "snapshot.h"

namespace smt::server {

inline std::span<const float> as_floats(std::span<const std::byte> packed) {
  return {reinterpret_cast<const float*>(packed.data()), packed.size() / sizeof(float)};
}

// The packed float at this byte.
inline float packed_float(std::span<const std::byte> packed, int64_t at) {
  return as_floats(packed)[static_cast<size_t>(at) / sizeof(float)];
}

// Packs as every binary does. Scores every row as `score` of its block's packed weights, by default the first head's
// bias; counts how many of its kind are alive.
class FakeBinary final : public TemplateBinary {
 public:
  using Score = std::function<float(std::span<const std::byte> packed)>;

  explicit FakeBinary(BinaryManifest manifest, Score score = {})
      : TemplateBinary(std::move(manifest), "binary"), score_(std::move(score)) {
    ++alive();
  }
  ~FakeBinary() override { --alive(); }

  void run(std::span<const int32_t> block_slot, const transform::Batch& batch, std::vector<float>& out) const override {
    WeightArena::View weights = arena();
    out.clear();
    for (int64_t row = 0; row < batch.rows; ++row) {
      int32_t slot = block_slot[static_cast<size_t>(row / cpu::kRowBlock)];
      std::span packed(weights.slots + slot * manifest().packed_bytes, static_cast<size_t>(manifest().packed_bytes));
      out.insert(out.end(), static_cast<size_t>(manifest().tasks),
                 score_ ? score_(packed) : packed_float(packed, kPackedHeadBias));
    }
  }
  // Relaxed is enough: it is read when the threads that change it have been joined.
  static std::atomic<int>& alive() {
    static std::atomic<int> count{0};
    return count;
  }

 private:
  Score score_;
};

// The binary of all fake snapshots: their slots are taken from one arena, as a server's are.
inline const std::shared_ptr<const FakeBinary>& fake_binary() {
  static const auto binary =
      std::make_shared<const FakeBinary>(parse_binary_manifest(binary_manifest().dump(), "manifest"));
  return binary;
}

inline constexpr int64_t kFakeBytes = kPacked + int64_t{4} * kTableRows * kDim;

// A snapshot whose weights are all the float `value`. `on_free` runs when its last reference is dropped.
inline std::shared_ptr<const LoadedSnapshot> fake_snapshot(const std::string& scenario, const std::string& version,
                                                           float value = 0.5F, std::function<void()> on_free = {}) {
  WeightSlot weights = fake_binary()->allocate(kTableRows);
  std::fill_n(reinterpret_cast<float*>(weights.packed().data()), weights.packed().size() / sizeof(float), value);
  std::ranges::fill(weights.table(), value);
  auto* snapshot = new LoadedSnapshot{
      .scenario = scenario,
      .version = version,
      .source = {"ranking", "1.0.0"},
      .abi_hash = kAbi,
      .tasks = {{"click", 0}},
      .created = 1,
      .features = transform::FeatureSpec::parse(features().dump()),
      .binary = fake_binary(),
      .weights = std::move(weights),
  };
  return {snapshot, [on_free = std::move(on_free)](const LoadedSnapshot* freed) {
            delete freed;
            if (on_free) on_free();
          }};
}

}  // namespace smt::server
