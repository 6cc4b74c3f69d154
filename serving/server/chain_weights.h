// From the files of a version, and of those that it is built on, to weights in an arena.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "pace.h"
#include "registry.h"
#include "row_overlay.h"
#include "snapshot.h"
#include "snapshot_chain.h"
#include "template_binary.h"
#include "weight_arena.h"

namespace smt::server {

// What a load takes at most, known from manifests alone: what stays, and what it needs for its own time.
struct LoadBytes {
  int64_t resident = 0;
  int64_t passing = 0;
};
LoadBytes bytes_of_whole(std::span<const ChainLink> chain, const BinaryManifest& abi);
// Beside what `below` holds already.
LoadBytes bytes_of_deltas(std::span<const ChainLink> deltas, const LoadedSnapshot& below);

struct ChainWeights {
  WeightSlot slot;
  std::unique_ptr<const RowOverlay> overlay;  // null: every row is in the slot's table
};

// Both read `chain`, the newest version first, verify what they read, and keep of the dense weights only the packed
// form. Throw Refused.

// The whole snapshot at the end of `chain` into a table of its own, and the deltas before it on top.
ChainWeights read_whole(const Registry& registry, std::span<const ChainLink> chain, const TemplateBinary& binary,
                        Reading reading);

// Deltas alone, of which the last is built on `below`: their rows beside its table, of which there is no copy.
ChainWeights read_deltas(const Registry& registry, std::span<const ChainLink> deltas, const LoadedSnapshot& below,
                         Reading reading);

}  // namespace smt::server
