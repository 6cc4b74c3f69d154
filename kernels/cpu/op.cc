// The torch ops, called by name from Python and from AOTInductor binaries in the server. No protobuf here: torch's
// include folder carries an old one.
//
//   smt::tile_program  x through a program of steps; smt::rank the same with a gather of table rows in it
//   smt::pack, smt::packed_bytes   slab -> one slot of an arena
//   smt::kernels, smt::use_kernels, smt::peak_flops   which compiled form runs, and what it can reach
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <vector>

#include "compiled_program.h"
#include "execute.h"
#include "kernels.h"
#include "row_threads.h"

namespace smt::cpu {
namespace {

// Programs are few (one per template and precision) and are kept for good.
class ProgramCache {
 public:
  const CompiledProgram& get(c10::IntArrayRef values) {
    thread_local const CompiledProgram* last = nullptr;  // a thread mostly runs the same program
    if (last != nullptr && values.equals(last->source())) return *last;
    last = &find(values);
    return *last;
  }

 private:
  const CompiledProgram& find(c10::IntArrayRef values) {
    {
      std::shared_lock lock(mutex_);
      for (const auto& program : programs_) {
        if (values.equals(program->source())) return *program;
      }
    }
    auto program = std::make_unique<const CompiledProgram>(std::span(values.data(), values.size()));
    std::unique_lock lock(mutex_);
    return *programs_.emplace_back(std::move(program));
  }

  std::shared_mutex mutex_;  // guards programs_; what they point to never changes
  std::vector<std::unique_ptr<const CompiledProgram>> programs_;
};

const CompiledProgram& compiled(c10::IntArrayRef values) {
  static ProgramCache cache;
  try {
    return cache.get(values);
  } catch (const std::invalid_argument& error) {
    TORCH_CHECK_VALUE(false, error.what());
  }
}

// Set once from the environment variable SMT_KERNELS or by use_kernels(); the pointee is static.
std::atomic<const Kernels*>& chosen() {
  static std::atomic<const Kernels*> kernels = &kernels_of_environment();
  return kernels;
}

void check_tensor(const at::Tensor& tensor, const char* name, at::ScalarType type, int64_t dimensions) {
  TORCH_CHECK_VALUE(
      tensor.scalar_type() == type && tensor.dim() == dimensions && tensor.is_contiguous() && tensor.device().is_cpu(),
      name, ": found ", tensor.scalar_type(), " ", tensor.sizes(), tensor.is_contiguous() ? "" : " strided", " on ",
      tensor.device(), "; expected contiguous ", type, " with ", dimensions, " dimensions on the CPU");
}

// Whether a slot's weights are what the kernels read: read as something else they would be wrong in silence.
bool packed_for(const Kernels& kernels, const Program& program, const at::Tensor& arena, int64_t slot) {
  if (program.precision != Precision::kBf16) return true;
  const auto* packed = static_cast<const std::byte*>(arena.const_data_ptr()) + slot * program.packed_bytes;
  Weights16 found;
  std::memcpy(&found, packed + program.packed_as, sizeof found);
  return found == kernels.weights16;
}

Inputs basic_inputs(const Program& program, const Kernels& kernels, const at::Tensor& arena,
                    const at::Tensor& block_slot, const at::Tensor& x) {
  check_tensor(arena, "arena", at::kByte, 2);
  check_tensor(block_slot, "block_slot", at::kInt, 1);
  check_tensor(x, "x", at::kFloat, 2);
  int64_t rows = x.size(0);
  TORCH_CHECK_VALUE(x.size(1) == program.inputs, "x: ", x.size(1), " columns; the program takes ", program.inputs);
  TORCH_CHECK_VALUE(arena.size(1) == program.packed_bytes, "arena: slots of ", arena.size(1),
                    " bytes; the program's packed weights have ", program.packed_bytes);
  TORCH_CHECK_VALUE(reinterpret_cast<uintptr_t>(arena.const_data_ptr()) % 64 == 0, "arena: not aligned to 64 bytes");
  TORCH_CHECK_VALUE(block_slot.size(0) == (rows + kRowBlock - 1) / kRowBlock, "block_slot: ", block_slot.size(0),
                    " entries for ", rows, " rows; expected one for each ", kRowBlock);
  const auto* slots = block_slot.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < block_slot.size(0); ++i) {
    TORCH_CHECK_VALUE(slots[i] >= 0 && slots[i] < arena.size(0), "block_slot[", i, "]: found ", slots[i],
                      "; expected 0..", arena.size(0) - 1, ", the arena's slots");
    TORCH_CHECK_VALUE(packed_for(kernels, program, arena, slots[i]), "arena: slot ", slots[i],
                      " was packed for other kernels than '", kernels.name, "', which are in use; pack it again");
  }
  Inputs in{};
  in.arena = static_cast<const std::byte*>(arena.const_data_ptr());
  in.slot_bytes = program.packed_bytes;
  in.block_slot = slots;
  in.dense = x.const_data_ptr<float>();
  in.rows = rows;
  return in;
}

at::Tensor run(const CompiledProgram& program, const Kernels& kernels, Inputs in) {
  at::Tensor out = at::empty({in.rows, program.program().outputs}, at::TensorOptions().dtype(at::kFloat));
  in.out = out.mutable_data_ptr<float>();
  // A part below eight rows would cost what eight cost, and a thread takes some 50 µs to wake.
  constexpr int64_t kWorthSharing = 40'000'000;
  bool worth = in.rows * program.program().row_flops >= kWorthSharing;
  int64_t threads = worth ? std::min<int64_t>(at::get_num_threads(), in.rows / 8) : 1;
  try {
    if (threads <= 1) {
      execute(program, kernels, in, 0, in.rows);
    } else {
      // One reference: what std::function keeps in itself.
      auto part = [&](int64_t first, int64_t last) { execute(program, kernels, in, first, last); };
      split_rows(in.rows, threads, std::ref(part));
    }
  } catch (const std::out_of_range& error) {
    TORCH_CHECK_INDEX(false, error.what());
  }
  return out;
}

at::Tensor tile_program(const at::Tensor& arena, const at::Tensor& block_slot, const at::Tensor& x,
                        c10::IntArrayRef values) {
  const CompiledProgram& program = compiled(values);
  TORCH_CHECK_VALUE(program.program().gather == nullptr, "program: gathers table rows; call smt::rank");
  const Kernels& kernels = *chosen().load(std::memory_order_relaxed);
  return run(program, kernels, basic_inputs(program.program(), kernels, arena, block_slot, x));
}

void check_bags(const at::Tensor& ids, const at::Tensor& offsets, const at::Tensor& bag_index) {
  const auto* first = offsets.const_data_ptr<int64_t>();
  int64_t bags = offsets.size(0) - 1;
  bool ordered = bags >= 0 && first[0] == 0 && first[bags] == ids.size(0);
  for (int64_t i = 0; i < bags; ++i) ordered &= first[i] <= first[i + 1];
  TORCH_CHECK_VALUE(ordered, "offsets: expected non-decreasing numbers from 0 to the ", ids.size(0), " ids");
  const auto* index = bag_index.const_data_ptr<int64_t>();
  uint64_t largest = 0;  // a negative one becomes huge
  for (int64_t i = 0; i < bag_index.numel(); ++i) largest = std::max(largest, static_cast<uint64_t>(index[i]));
  TORCH_CHECK_VALUE(bag_index.numel() == 0 || largest < static_cast<uint64_t>(bags),
                    "bag_index: holds a number outside 0..", bags - 1, ", the bags that offsets name");
}

at::Tensor rank(const at::Tensor& arena, const at::Tensor& block_slot, const at::Tensor& pool,
                const at::Tensor& pool_base, const at::Tensor& dense, const at::Tensor& ids, const at::Tensor& offsets,
                const at::Tensor& bag_index, c10::IntArrayRef values) {
  const CompiledProgram& program = compiled(values);
  TORCH_CHECK_VALUE(program.program().gather != nullptr, "program: gathers nothing; call smt::tile_program");
  const Step& gather = *program.program().gather;
  const Kernels& kernels = *chosen().load(std::memory_order_relaxed);
  Inputs in = basic_inputs(program.program(), kernels, arena, block_slot, dense);
  at::ScalarType type = gather.table == TableType::kFp32   ? at::kFloat
                        : gather.table == TableType::kFp16 ? at::kHalf
                                                           : at::kByte;
  check_tensor(pool, "pool", type, 2);
  check_tensor(pool_base, "pool_base", at::kLong, 1);
  check_tensor(ids, "ids", at::kLong, 1);
  check_tensor(offsets, "offsets", at::kLong, 1);
  check_tensor(bag_index, "bag_index", at::kLong, 2);
  int64_t columns = gather.dim + (gather.table == TableType::kInt8 ? 8 : 0);
  TORCH_CHECK_VALUE(pool.size(1) == columns, "pool: ", pool.size(1), " columns; expected ", columns);
  TORCH_CHECK_VALUE(pool_base.size(0) == arena.size(0), "pool_base: ", pool_base.size(0), " entries; the arena has ",
                    arena.size(0), " slots");
  TORCH_CHECK_VALUE(bag_index.size(0) == in.rows && bag_index.size(1) == gather.slots, "bag_index: found ",
                    bag_index.sizes(), "; expected [", in.rows, ", ", gather.slots, "]");
  check_bags(ids, offsets, bag_index);
  in.pool = static_cast<const std::byte*>(pool.const_data_ptr());
  in.pool_rows = pool.size(0);
  in.pool_base = pool_base.const_data_ptr<int64_t>();
  in.ids = ids.const_data_ptr<int64_t>();
  in.offsets = offsets.const_data_ptr<int64_t>();
  in.bag_index = bag_index.const_data_ptr<int64_t>();
  return run(program, kernels, in);
}

at::Tensor pack(const at::Tensor& slab, c10::IntArrayRef values) {
  const CompiledProgram& program = compiled(values);
  check_tensor(slab, "slab", at::kFloat, 1);
  TORCH_CHECK_VALUE(slab.numel() >= program.program().slab_elements, "slab: ", slab.numel(),
                    " elements; the program reads ", program.program().slab_elements);
  at::Tensor slot = at::empty({program.program().packed_bytes}, at::TensorOptions().dtype(at::kByte));
  program.pack(std::span(slab.const_data_ptr<float>(), static_cast<size_t>(slab.numel())),
               chosen().load(std::memory_order_relaxed)->weights16, static_cast<std::byte*>(slot.mutable_data_ptr()));
  return slot;
}

int64_t packed_bytes(c10::IntArrayRef values) { return compiled(values).program().packed_bytes; }
int64_t outputs(c10::IntArrayRef values) { return compiled(values).program().outputs; }

std::vector<std::string> available() {
  std::vector<std::string> names;
  for (const Kernels* kernels : available_kernels()) names.emplace_back(kernels->name);
  return names;
}

std::string current() { return chosen().load(std::memory_order_relaxed)->name; }

void use(std::string name) {
  try {
    chosen().store(&choose_kernels(name), std::memory_order_relaxed);
  } catch (const std::invalid_argument& error) {
    TORCH_CHECK_VALUE(false, error.what());
  }
}

// Operations a second of one core on operands that the first-level cache holds: the best of several tries of 10 ms.
double peak_flops(int64_t precision) {
  TORCH_CHECK_VALUE(precision >= 0 && precision <= 2, "precision: found ", precision, "; expected 0 (fp32), 1 or 2");
  const Kernels& kernels = *chosen().load(std::memory_order_relaxed);
  std::byte* scratch = thread_scratch(int64_t{1} << 20);
  std::memset(scratch, 0, size_t{1} << 20);
  double best = 0;
  int64_t repetitions = 16;
  for (int attempt = 0; attempt < 20; ++attempt) {
    auto started = std::chrono::steady_clock::now();
    double operations = kernels.peak(Precision{precision}, repetitions, scratch);
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    if (seconds < 0.01) {
      repetitions *= 2;
      --attempt;
    } else {
      best = std::max(best, operations / seconds);
    }
  }
  return best;
}

}  // namespace

TORCH_LIBRARY(smt, library) {
  library.def("tile_program(Tensor arena, Tensor block_slot, Tensor x, int[] program) -> Tensor");
  library.def(
      "rank(Tensor arena, Tensor block_slot, Tensor pool, Tensor pool_base, Tensor dense, Tensor ids, Tensor offsets, "
      "Tensor bag_index, int[] program) -> Tensor");
  library.def("pack(Tensor slab, int[] program) -> Tensor");
  library.def("packed_bytes(int[] program) -> int", packed_bytes);
  library.def("outputs(int[] program) -> int", outputs);
  library.def("available_kernels() -> str[]", available);
  library.def("current_kernels() -> str", current);
  library.def("use_kernels(str name) -> ()", use);
  library.def("peak_flops(int precision) -> float", peak_flops);
}

TORCH_LIBRARY_IMPL(smt, CPU, library) {
  library.impl("tile_program", tile_program);
  library.impl("rank", rank);
  library.impl("pack", pack);
}

}  // namespace smt::cpu
