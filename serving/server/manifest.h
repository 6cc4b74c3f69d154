// The registry's two manifests, parsed and checked. serving/manifest.py writes them.
//
// Everything here throws Refused(kManifest) whose message names the file and the field. Unknown keys are ignored:
// `format` says what a reader must understand.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace smt::server {

struct FileEntry {
  std::string name;
  uint64_t bytes = 0;
  std::string sha256;
  std::string xxh3 = {};  // XXH3-128; empty: an older publisher wrote none
};

struct TemplateRef {
  std::string name;
  std::string version;
};

// A task of the scenario, and the column of the template's output that is its score.
struct Task {
  std::string name;
  int64_t head = 0;
};

// Deltas, one on another, that a version may be made of; publishers stop long before.
inline constexpr int64_t kMaxChain = 64;

struct SnapshotManifest {
  std::string scenario;
  std::string version;
  TemplateRef source;
  std::string abi_hash;
  int64_t dim = 0;
  std::vector<Task> tasks;
  std::string features_json;  // the FeatureSpec document; smt::transform::FeatureSpec parses it
  std::string base;           // the version that this one is a delta on; empty: it is whole
  int64_t chain = 0;          // deltas from here down to a whole version, this one included; 0: it is whole
  FileEntry weights;          // weights.safetensors; of a delta delta.safetensors
  double created = 0;         // seconds since the epoch (lineage.created); 0 when absent
};

// What the binary is a function of. A fused one reads packed weights, and rows of many scenarios may share its calls;
// one of views reads the slab and the table of one scenario as they are.
enum class BinaryKind { kFused, kViews };

struct BinaryManifest {
  BinaryKind kind = BinaryKind::kFused;
  TemplateRef source;
  std::string abi_hash;
  std::string target;
  std::string isa;
  std::string torch;
  int64_t kernel_version = 0;
  int64_t kernel_abi = 0;        // format of `program`
  std::string precision;         // fp32, bf16 or int8
  std::vector<int64_t> program;  // a tile program (kernels/cpu/program.h); TemplateBinary checks it. Empty for views
  int64_t packed_bytes = 0;      // of a slot of the arena: one scenario's dense weights as the binary reads them
  int64_t slab_elements = 0;     // of a snapshot's dense weights
  int64_t dim = 0;
  int64_t tasks = 0;  // T, columns of the output
  int64_t dense_slots = 0;
  int64_t categorical_slots = 0;
  FileEntry model;  // model.pt2
};

inline constexpr uint64_t kMaxManifestBytes = uint64_t{256} << 20;

// `file` is how messages name the document.
SnapshotManifest parse_snapshot_manifest(std::string_view json, const std::string& file);

// Also checks names, order, types and fixed dimensions of the binary's inputs and outputs: the server passes tensors
// by position. A binary of an older format is refused with the advice to compile the template again.
BinaryManifest parse_binary_manifest(std::string_view json, const std::string& file);

// Seconds since the epoch of an ISO 8601 time "YYYY-MM-DDTHH:MM:SS[.fff][Z|+HH:MM]"; 0 if it is not one.
double parse_time(const std::string& text);

}  // namespace smt::server
