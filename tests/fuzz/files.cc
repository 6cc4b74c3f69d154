#include <cstring>
#include <vector>

#include "compiled_program.h"
#include "manifest.h"
#include "refusal.h"
#include "safetensors.h"
#include "scheduling_config.h"
#include "targets.h"
#include "transform.h"

namespace smt::fuzz {
namespace {

using server::Refused;

void compile(std::span<const int64_t> values) {
  try {
    cpu::CompiledProgram program(values);
    require(program.program().packed_bytes >= 0, "a program has a size");
  } catch (const std::invalid_argument&) {
  }
}

}  // namespace

void feature_spec(Bytes bytes) {
  try {
    transform::FeatureSpec spec = transform::FeatureSpec::parse(text(bytes));
    require(spec.dense_slots() >= 0 && spec.categorical_slots() >= 0 && spec.table_rows() >= 0,
            "sizes are not negative");
    transform::CheckedColumns checked;
    transform::Batch batch;
    spec.check(1, {}, {}, {}, checked);
    spec.append(checked, 0, 1, batch);
  } catch (const transform::SpecError&) {
  } catch (const transform::InputError&) {  // an input that is required
  }
}

void snapshot_manifest(Bytes bytes) {
  try {
    server::SnapshotManifest manifest = server::parse_snapshot_manifest(text(bytes), "manifest.json");
    require(!manifest.tasks.empty() && manifest.dim >= 1, "a manifest has tasks and a dimension");
    feature_spec({reinterpret_cast<const uint8_t*>(manifest.features_json.data()), manifest.features_json.size()});
  } catch (const Refused&) {
  }
}

void binary_manifest(Bytes bytes) {
  try {
    server::BinaryManifest manifest = server::parse_binary_manifest(text(bytes), "manifest.json");
    require(manifest.packed_bytes >= 1 && manifest.tasks >= 1, "a binary has slots and tasks");
    compile(manifest.program);
  } catch (const Refused&) {
  }
}

void safetensors(Bytes bytes) {
  if (bytes.size() < server::kSafetensorsPrefix) return;
  std::span head = std::as_bytes(bytes);
  // Tensors lie behind the header, in a file that may be larger than what a fuzzer writes.
  for (uint64_t data : {uint64_t{0}, uint64_t{64}, uint64_t{1} << 40}) {
    uint64_t size = bytes.size() + data;
    try {
      uint64_t header = server::safetensors_header_bytes(head.first(server::kSafetensorsPrefix), size, "weights");
      if (header > bytes.size() - server::kSafetensorsPrefix) continue;
      server::SafetensorsHeader parsed = server::parse_safetensors(head, size, "weights");
      uint64_t at = 0;
      for (const server::TensorInfo& tensor : parsed.tensors) {
        require(tensor.begin == at && tensor.end >= at, "tensors lie side by side");
        at = tensor.end;
      }
      require(parsed.data_start + at == size, "tensors fill the file");
    } catch (const Refused&) {
    }
  }
}

void scheduling(Bytes bytes) {
  try {
    (void)server::parse_scheduling(text(bytes), "scheduling.json");
  } catch (const Refused&) {
  }
}

void tile_program(Bytes bytes) {
  std::vector<int64_t> values(bytes.size() / sizeof(int64_t));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(int64_t));
  compile(values);
}

}  // namespace smt::fuzz
