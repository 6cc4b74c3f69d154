// A template compiled once: a function of (weights, features). It holds no weights, so every scenario of the template
// shares it. This header knows nothing of torch, so that proto-facing code may include it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "aligned_array.h"
#include "manifest.h"
#include "transform.h"

namespace smt::cpu {
class CompiledProgram;
}

namespace smt::server {

// One scenario's weights as the binary takes them; views.
struct WeightsView {
  std::span<const std::byte> packed;  // [packed_bytes], what pack() made; 64-byte aligned
  std::span<const float> table;       // [table_rows, dim], 64-byte aligned
  int64_t table_rows = 0;
};

// Thread-safe: pack() and run() may be called from several threads at once.
class TemplateBinary {
 public:
  // Compiles the manifest's tile program. Throws Refused(kBinary), naming the file `shown` and the field, when it is no
  // program of this server's kernels or does not have the manifest's sizes.
  TemplateBinary(BinaryManifest manifest, const std::string& shown);
  virtual ~TemplateBinary();
  TemplateBinary(const TemplateBinary&) = delete;
  TemplateBinary& operator=(const TemplateBinary&) = delete;

  const BinaryManifest& manifest() const { return manifest_; }

  // A snapshot's dense weights [slab_elements] in the form that the kernels read: [packed_bytes]. Takes milliseconds
  // for each megabyte: once, when a snapshot is loaded, never on a serving thread.
  // Throws std::bad_alloc, or std::invalid_argument when the slab is shorter than what the program reads.
  AlignedArray<std::byte> pack(std::span<const float> slab) const;

  // Scores `batch` (as FeatureSpec::apply makes it, its ids below table_rows) under `weights`, whose sizes fit the
  // manifest; both are only read, and only until run() returns. `out` becomes [rows, tasks], row-major.
  // Throws std::exception when the compiled code fails.
  virtual void run(const WeightsView& weights, const transform::Batch& batch, std::vector<float>& out) const = 0;

 private:
  BinaryManifest manifest_;
  std::unique_ptr<const cpu::CompiledProgram> program_;
};

}  // namespace smt::server
