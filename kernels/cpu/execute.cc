#include "execute.h"

#include <algorithm>
#include <new>
#include <stdexcept>
#include <utility>

namespace smt::cpu {
namespace {

constexpr std::align_val_t kAlignment{64};
// Rows of a tile, and bytes of their activations. Where the second-level cache can hold activations beside the weights
// (of a megabyte, the smallest of servers with AVX-512), it does; weights that come from further away are worth more
// rows.
constexpr int64_t kMostRows = 96, kActivationBytes = int64_t{768} << 10;
constexpr int64_t kMostStreamedRows = 128, kStreamedActivationBytes = int64_t{6} << 20;

}  // namespace

AlignedMemory::AlignedMemory(int64_t bytes)
    : data_(static_cast<std::byte*>(::operator new(static_cast<size_t>(bytes), kAlignment))), bytes_(bytes) {}

AlignedMemory::~AlignedMemory() {
  if (data_ != nullptr) ::operator delete(data_, kAlignment);
}

AlignedMemory::AlignedMemory(AlignedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

AlignedMemory& AlignedMemory::operator=(AlignedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

std::byte* thread_scratch(int64_t bytes) {
  thread_local AlignedMemory memory;
  if (memory.bytes() < bytes) {
    memory = AlignedMemory();  // give the old back first
    memory = AlignedMemory(bytes);
  }
  return memory.data();
}

int64_t tile_rows(const Program& program, const Kernels& kernels, int64_t rows) {
  int64_t row_bytes = kernels.activation_bytes(program.precision) == 4 ? program.float_bytes : program.half_bytes;
  int64_t bytes = program.streams ? kStreamedActivationBytes : kActivationBytes;
  int64_t most = std::clamp<int64_t>(bytes / std::max<int64_t>(row_bytes, 1), kRowBlock,
                                     program.streams ? kMostStreamedRows : kMostRows);
  return std::min((rows + kRowBlock - 1) / kRowBlock * kRowBlock, most / kRowBlock * kRowBlock);
}

void execute(const CompiledProgram& compiled, const Kernels& kernels, const Inputs& in, int64_t first, int64_t last) {
  if (first >= last) return;
  const Program& program = compiled.program();
  int64_t rows = tile_rows(program, kernels, last - first);
  std::byte* scratch = thread_scratch(kernels.scratch_bytes(program, rows));
  thread_local const std::byte* warm = nullptr;
  Inputs call = in;
  call.warm = warm;
  warm = in.arena + in.block_slot[(last - 1) / kRowBlock] * in.slot_bytes;
  if (kernels.run(program, call, first, last, rows, scratch) == Status::kIdOutside) {
    throw std::out_of_range("ids: an id lies outside the scenario's table, or its table outside the pool of " +
                            std::to_string(in.pool_rows) + " rows");
  }
}

}  // namespace smt::cpu
