// A template compiled once: a function of (weights, features). It holds no weights, so every scenario of the template
// shares it. This header knows nothing of torch, so that proto-facing code may include it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "manifest.h"
#include "transform.h"

namespace smt::server {

// One scenario's weights as the binary takes them; views.
struct WeightsView {
  std::span<const float> slab;   // [slab_elements], 64-byte aligned
  std::span<const float> table;  // [table_rows, dim], 64-byte aligned
  int64_t table_rows = 0;
};

// Thread-safe: run() may be called from several threads at once.
class TemplateBinary {
 public:
  explicit TemplateBinary(BinaryManifest manifest) : manifest_(std::move(manifest)) {}
  virtual ~TemplateBinary() = default;
  TemplateBinary(const TemplateBinary&) = delete;
  TemplateBinary& operator=(const TemplateBinary&) = delete;

  const BinaryManifest& manifest() const { return manifest_; }

  // Scores `batch` (as FeatureSpec::apply makes it, its ids below table_rows) under `weights`, whose sizes fit the
  // manifest; both are only read, and only until run() returns. `out` becomes [rows, tasks], row-major.
  // Throws std::exception when the compiled code fails.
  virtual void run(const WeightsView& weights, const transform::Batch& batch, std::vector<float>& out) const = 0;

 private:
  BinaryManifest manifest_;
};

}  // namespace smt::server
