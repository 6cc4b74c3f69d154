// One scenario's weights as they are served: immutable, complete, verified.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "aligned_array.h"
#include "manifest.h"
#include "template_binary.h"
#include "transform.h"

namespace smt::server {

// Immutable after construction, so any number of threads may use it at once without a lock. Shared by reference count:
// the scenario store holds one reference while the version is current, each request holds one from admission to its
// response. The weights live exactly as long as any of them; whoever drops the last reference frees them.
//
// Invariants: tasks' heads < binary's tasks; packed weights, table and features have the sizes that the binary expects;
// every row that features can produce lies inside the table; all weights are finite.
struct LoadedSnapshot {
  std::string scenario;
  std::string version;
  TemplateRef source;
  std::string abi_hash;
  std::vector<Task> tasks;
  double created = 0;  // seconds since the epoch, 0 if the manifest does not say
  transform::FeatureSpec features;
  AlignedArray<std::byte> packed;  // the dense weights, by binary->pack()
  AlignedArray<float> table;       // [table_rows, dim], row-major
  int64_t table_rows = 0;
  std::shared_ptr<const TemplateBinary> binary;

  WeightsView view() const { return {packed.values(), table.values(), table_rows}; }
  int64_t weight_bytes() const { return static_cast<int64_t>(packed.bytes() + table.bytes()); }
};

}  // namespace smt::server
