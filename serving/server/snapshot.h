// One scenario's weights as they are served: immutable, complete, verified.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "held_bytes.h"
#include "manifest.h"
#include "row_overlay.h"
#include "template_binary.h"
#include "transform.h"

namespace smt::server {

// Immutable after construction, so any number of threads may use it at once without a lock. Shared by reference count:
// the scenario store holds one reference while the version is current, each request holds one from admission to its
// response. The weights live exactly as long as any of them; whoever drops the last reference frees them.
//
// Invariants: tasks' heads < binary's tasks; weights are of the binary's arena, and they and features have the sizes
// that it expects; every row that features can produce lies inside the table; all weights are finite.
//
// A version that was published as a delta and loaded while a version that it is built on was here has an overlay: the
// rows that changed lie apart, and its slot is over the other's table, which lives as long as the last version that
// reads it.
struct LoadedSnapshot {
  std::string scenario;
  std::string version;
  TemplateRef source;
  std::string abi_hash;
  std::vector<Task> tasks;
  double created = 0;  // seconds since the epoch, 0 if the manifest does not say
  transform::FeatureSpec features;
  std::shared_ptr<const TemplateBinary> binary;
  WeightSlot weights;                              // the dense weights, packed, and the table
  std::unique_ptr<const RowOverlay> overlay = {};  // null: every row is in the table

  int64_t table_rows() const { return overlay ? overlay->table_rows() : weights.table_rows(); }
  // Makes rows of this version's table, which its features gave, what its slot takes.
  void resolve(std::span<int64_t> ids) const noexcept {
    if (overlay) overlay->resolve(ids);
  }
  // Of everything that it reads, also what it shares with other versions.
  int64_t weight_bytes() const { return weights.bytes() + (overlay ? overlay->bytes() : 0); }
  // The same, with what other versions may hold as well told apart.
  HeldBytes held_bytes() const;
};

}  // namespace smt::server
