#include "template_binary.h"

#include <cstring>
#include <stdexcept>
#include <utility>

#include "compiled_program.h"
#include "kernels.h"
#include "names.h"
#include "refusal.h"

namespace smt::server {
namespace {

[[noreturn]] void refuse(const std::string& shown, const char* field, const std::string& found,
                         const std::string& expected) {
  throw Refused(Reason::kBinary,
                shown + ": field '" + field + "': found " + found + "; expected " + shortened(expected, 500));
}

const char* precision_name(cpu::Precision precision) {
  switch (precision) {
    case cpu::Precision::kFp32:
      return "fp32";
    case cpu::Precision::kBf16:
      return "bf16";
    case cpu::Precision::kInt8:
      return "int8";
  }
  return "";
}

// The kernels trust the program for every size; the server takes sizes from the manifest's fields.
void check_sizes(const cpu::Program& program, const BinaryManifest& manifest, const std::string& shown) {
  auto expect = [&](const char* field, int64_t found, int64_t expected) {
    if (found != expected) refuse(shown, field, std::to_string(found), std::to_string(expected) + ", the program's");
  };
  if (manifest.precision != precision_name(program.precision)) {
    refuse(shown, "precision", quote(manifest.precision), quote(precision_name(program.precision)) + ", the program's");
  }
  expect("dense_slots", manifest.dense_slots, program.inputs);
  if (program.gather == nullptr) refuse(shown, "program", "no gather of table rows", "one");
  if (program.gather->table != cpu::TableType::kFp32) {
    refuse(shown, "program", "a gather of another table type", "float32, as snapshots have");
  }
  expect("categorical_slots", manifest.categorical_slots, program.gather->slots);
  expect("dim", manifest.dim, program.gather->dim);
  expect("tasks", manifest.tasks, program.outputs);
  if (manifest.packed_bytes != program.packed_bytes) {
    refuse(shown, "packed_bytes", std::to_string(manifest.packed_bytes),
           std::to_string(program.packed_bytes) + ", the program's with the kernels of this server (compile it again)");
  }
  if (manifest.slab_elements < program.slab_elements) {
    refuse(shown, "slab_elements", std::to_string(manifest.slab_elements),
           "at least " + std::to_string(program.slab_elements) + ", which the program reads");
  }
}

// Of views a slot is the slab itself.
void check_views(const BinaryManifest& manifest, const std::string& shown) {
  if (manifest.precision != "fp32") refuse(shown, "precision", quote(manifest.precision), "'fp32', as views are");
  if (!manifest.program.empty()) refuse(shown, "program", "a tile program", "none, as the kind is 'views'");
  const int64_t bytes = manifest.slab_elements * static_cast<int64_t>(sizeof(float));
  if (manifest.packed_bytes != bytes || bytes % 64 != 0) {
    refuse(shown, "packed_bytes", std::to_string(manifest.packed_bytes),
           std::to_string(bytes) + ", the slab's, and a multiple of 64");
  }
}

std::unique_ptr<const cpu::CompiledProgram> compile(const BinaryManifest& manifest, const std::string& shown) {
  if (manifest.kind == BinaryKind::kViews) {
    check_views(manifest, shown);
    return nullptr;
  }
  if (manifest.kernel_abi != cpu::kProgramFormat) {
    refuse(shown, "kernel_abi", std::to_string(manifest.kernel_abi),
           std::to_string(cpu::kProgramFormat) + ", the kernels in this server");
  }
  std::unique_ptr<const cpu::CompiledProgram> compiled;
  try {
    compiled = std::make_unique<const cpu::CompiledProgram>(manifest.program);
  } catch (const std::invalid_argument& error) {
    throw Refused(Reason::kBinary, shown + ": field 'program': " + shortened(error.what(), 500));
  }
  check_sizes(compiled->program(), manifest, shown);
  return compiled;
}

std::shared_ptr<WeightArena> reserve(const BinaryManifest& manifest, const std::string& shown) {
  try {
    return std::make_shared<WeightArena>(manifest.packed_bytes, manifest.dim);
  } catch (const ArenaError& error) {
    throw Refused(Reason::kIo, shown + ": " + error.what());
  }
}

}  // namespace

TemplateBinary::TemplateBinary(BinaryManifest manifest, const std::string& shown)
    : manifest_(std::move(manifest)), program_(compile(manifest_, shown)), arena_(reserve(manifest_, shown)) {}

TemplateBinary::~TemplateBinary() = default;

WeightSlot TemplateBinary::allocate(int64_t table_rows) const { return {arena_, table_rows}; }

std::shared_ptr<PoolRange> TemplateBinary::allocate_rows(int64_t rows) const {
  return std::make_shared<PoolRange>(arena_, rows);
}

void TemplateBinary::pack(std::span<const float> slab, WeightSlot& slot) const {
  if (program_ != nullptr) return program_->pack(slab, cpu::kernels_of_environment().weights16, slot.packed().data());
  std::span<std::byte> bytes = slot.packed();
  if (slab.size_bytes() < bytes.size()) {
    throw std::invalid_argument("slab: found " + std::to_string(slab.size_bytes()) + " bytes; expected " +
                                std::to_string(bytes.size()));
  }
  std::memcpy(bytes.data(), slab.data(), bytes.size());
}

}  // namespace smt::server
