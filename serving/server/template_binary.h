// A template compiled once: a function of (weights, features), and the arena of the weights that it is called with. The
// function holds none itself, so every scenario of the template shares it. This header knows nothing of torch, so that
// proto-facing code may include it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "manifest.h"
#include "transform.h"
#include "weight_arena.h"

namespace smt::cpu {
class CompiledProgram;
}

namespace smt::server {

// Thread-safe: every member may be called from several threads at once.
class TemplateBinary {
 public:
  // Compiles the manifest's tile program, if the kind has one, and reserves the arena. Throws Refused(kBinary), naming
  // the file `shown` and the field, when it is no program of this server's kernels or does not have the manifest's
  // sizes; Refused(kIo) when there are no addresses left.
  TemplateBinary(BinaryManifest manifest, const std::string& shown);
  virtual ~TemplateBinary();
  TemplateBinary(const TemplateBinary&) = delete;
  TemplateBinary& operator=(const TemplateBinary&) = delete;

  const BinaryManifest& manifest() const { return manifest_; }

  // Whether a call may carry rows of several snapshots. Without it, all of block_slot names one slot.
  bool mixes_snapshots() const { return manifest_.kind == BinaryKind::kFused; }

  // A place for one snapshot's weights: a slot of packed_bytes, and table_rows rows of the pool. Cheap: memory is taken
  // when it is written to. Throws ArenaError, std::bad_alloc.
  WeightSlot allocate(int64_t table_rows) const;

  // Rows of the pool alone, for what a delta changes. Throws as allocate().
  std::shared_ptr<PoolRange> allocate_rows(int64_t rows) const;

  // Fills `slot`, which allocate() made, with a snapshot's dense weights [slab_elements] in the form that the binary
  // reads. Takes milliseconds for each megabyte: once, when a snapshot is loaded, never on a serving thread.
  // Throws std::invalid_argument when the slab is shorter than what the binary reads.
  void pack(std::span<const float> slab, WeightSlot& slot) const;

  // Scores `batch` (made by FeatureSpecs, each row's ids below its scenario's table_rows, or rows of the pool where a
  // RowOverlay made them so): rows of block b, of cpu::kRowBlock rows, under the weights of slot block_slot[b]. The
  // caller holds the slots, and their owners do not write to them, until run() returns. `out` becomes [rows, tasks],
  // row-major.
  // Throws std::invalid_argument when block_slot has another length than ceil(rows / cpu::kRowBlock), or names several
  // slots and the binary does not mix snapshots; std::exception when the compiled code fails.
  virtual void run(std::span<const int32_t> block_slot, const transform::Batch& batch,
                   std::vector<float>& out) const = 0;

  // As WeightArena::trim().
  void trim(std::chrono::steady_clock::time_point since) const { arena_->trim(since); }

 protected:
  WeightArena::View arena() const { return arena_->view(); }

 private:
  BinaryManifest manifest_;
  std::unique_ptr<const cpu::CompiledProgram> program_;  // null for views
  std::shared_ptr<WeightArena> arena_;                   // shared with the slots taken from it
};

}  // namespace smt::server
