// Random programs, weights and inputs for the C++ tests of the CPU kernels. What they compute is tested in Python,
// against the specifications; here it is memory, threads and packing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "compiled_program.h"
#include "execute.h"
#include "kernels.h"

namespace smt::cpu::test {

inline std::vector<const Kernels*> all_kernels() {
  std::vector<const Kernels*> list = available_kernels();
  list.push_back(&emulated_amx_kernels());
  return list;
}

// Deterministic and everywhere the same; values in [-1, 1).
class Random {
 public:
  explicit Random(uint32_t seed) : state_(seed * 2654435761U + 1) {}
  uint32_t bits() { return (state_ = state_ * 1664525U + 1013904223U) >> 8; }
  float value() { return static_cast<float>(static_cast<int32_t>(bits()) - (1 << 23)) * 0x1p-23F; }
  int64_t below(int64_t end) { return static_cast<int64_t>(bits()) % end; }

 private:
  uint32_t state_;
};

// Emits what kernels/cpu/program.py does, one weight after the other in the slab.
class Writer {
 public:
  Writer(Precision precision, int64_t inputs)
      : values_{1, static_cast<int64_t>(precision), inputs, 1}, width_(inputs) {}

  const std::vector<int64_t>& values() const { return values_; }

  Writer& mlp(std::vector<int64_t> units, Activation activation, bool norm) {
    add({1, static_cast<int64_t>(activation), static_cast<int64_t>(units.size())});
    for (int64_t n : units) {
      add({n, take(n * width_), take(n), norm ? take(n) : -1});
      if (norm) add({take(n)});
      width_ = n;
    }
    return *this;
  }
  Writer& gather(int64_t slots, int64_t dim, Pooling pooling, TableType table) {
    add({2, slots, dim, static_cast<int64_t>(pooling), static_cast<int64_t>(table), 0});
    width_ += slots * dim;
    return *this;
  }
  Writer& cross_low_rank(int64_t layers, int64_t rank) {
    add({3, layers, rank});
    for (int64_t l = 0; l < layers; ++l) add({take(rank * width_), take(rank * width_), take(width_)});
    return *this;
  }
  Writer& cross_full(int64_t layers) {
    add({4, layers});
    for (int64_t l = 0; l < layers; ++l) add({take(width_ * width_), take(width_)});
    return *this;
  }
  Writer& dot(int64_t dim, bool dense_first) {
    int64_t vectors = width_ / dim;
    add({5, vectors, dim, dense_first ? 1 : 0});
    width_ = (dense_first ? dim : 0) + vectors * (vectors - 1) / 2;
    return *this;
  }
  Writer& experts(int64_t tasks, int64_t experts, int64_t units) {
    add({6, 2, tasks, experts, 1, units, take(experts * units * width_), take(experts * units),
         take(tasks * experts * width_), take(tasks * experts)});
    width_ = units;
    return *this;
  }
  void heads(int64_t tasks, int64_t units, bool shared) {
    add({7, 0, tasks, shared ? 1 : 0, 1, 1, units, take(tasks * units * width_), take(tasks * units),
         take(tasks * units), take(tasks)});
  }

 private:
  void add(std::initializer_list<int64_t> numbers) { values_.insert(values_.end(), numbers); }
  int64_t take(int64_t elements) {
    int64_t first = elements_;
    elements_ += elements;
    return first;
  }

  std::vector<int64_t> values_;
  int64_t width_, elements_ = 0;
};

// All kinds of step but dot, on widths that are no multiple of anything.
inline std::vector<int64_t> deep_program(Precision precision, TableType table, int64_t dim) {
  Writer writer(precision, 13);
  writer.mlp({37, 19}, Activation::kGelu, true).gather(3, dim, Pooling::kMean, table).cross_low_rank(2, 21);
  writer.cross_full(2).mlp({35}, Activation::kRelu, false).experts(3, 4, 29).heads(3, 17, false);
  return writer.values();
}

// DLRM with `tasks` outputs a row.
inline std::vector<int64_t> dot_program(Precision precision, TableType table, int64_t dim, int64_t tasks) {
  Writer writer(precision, 7);
  writer.mlp({dim}, Activation::kSilu, false).gather(5, dim, Pooling::kSum, table).dot(dim, true).heads(tasks, 9, true);
  return writer.values();
}

// Memory of exactly `count` elements that starts `shift` elements behind an aligned address: the sanitizer sees the
// first byte that is read or written behind it.
template <class T>
class Exact {
 public:
  explicit Exact(int64_t count, int64_t shift = 0)
      : memory_(new T[static_cast<size_t>(count + shift)]()), shift_(shift), count_(count) {}
  T* data() const { return memory_.get() + shift_; }
  int64_t count() const { return count_; }
  T& operator[](int64_t i) const { return data()[i]; }

 private:
  std::unique_ptr<T[]> memory_;
  int64_t shift_, count_;
};

// One call: inputs of their exact sizes, and the output.
class Call {
 public:
  static constexpr int64_t kPoolRows = 6;

  Call(const CompiledProgram& program, const Kernels& kernels, int64_t rows, int64_t slots, uint32_t seed,
       int64_t shift = 0)
      : arena_(slots * program.program().packed_bytes),
        block_slot_((rows + kRowBlock - 1) / kRowBlock, shift),
        dense_(rows * program.program().inputs, shift),
        out_(rows * program.program().outputs, shift),
        pool_base_(slots, shift),
        offsets_(rows + 2, shift) {
    const Program& p = program.program();
    Random random(seed);
    std::vector<float> slab(static_cast<size_t>(p.slab_elements));
    for (int64_t slot = 0; slot < slots; ++slot) {
      for (float& weight : slab) weight = random.value() * 0.2F;
      program.pack(slab, kernels.weights16, arena_.data() + slot * p.packed_bytes);
    }
    for (int64_t i = 0; i < block_slot_.count(); ++i) block_slot_[i] = static_cast<int32_t>(random.below(slots));
    for (int64_t i = 0; i < dense_.count(); ++i) dense_[i] = random.value();
    in_.arena = arena_.data();
    in_.slot_bytes = p.packed_bytes;
    in_.block_slot = block_slot_.data();
    in_.dense = dense_.data();
    in_.rows = rows;
    in_.out = out_.data();
    if (p.gather != nullptr) add_bags(*p.gather, rows, random, shift);
  }

  const Inputs& inputs() const { return in_; }
  Inputs into(float* out) const {
    Inputs in = in_;
    in.out = out;
    return in;
  }
  std::vector<float> result() const { return {out_.data(), out_.data() + out_.count()}; }
  int64_t rows() const { return in_.rows; }

 private:
  // Bag 0 is context; the others have 0 to 2 ids. The last row of the pool is read by every call.
  void add_bags(const Step& gather, int64_t rows, Random& random, int64_t shift) {
    int64_t row_bytes = gather.table == TableType::kFp32   ? gather.dim * 4
                        : gather.table == TableType::kFp16 ? gather.dim * 2
                                                           : gather.dim + 8;
    int64_t element = gather.table == TableType::kFp32 ? 4 : gather.table == TableType::kFp16 ? 2 : 1;
    pool_ = std::make_unique<Exact<std::byte>>(kPoolRows * row_bytes, shift * element);
    for (int64_t row = 0; row < kPoolRows; ++row) {
      std::byte* bytes = pool_->data() + row * row_bytes;
      for (int64_t i = 0; i < gather.dim; ++i) {
        if (gather.table == TableType::kFp32) {
          float value = random.value();
          std::memcpy(bytes + 4 * i, &value, 4);
        } else if (gather.table == TableType::kFp16) {
          auto half = static_cast<uint16_t>(random.below(2) << 15 | (0x3000 + random.below(0xc00)));  // 1/8 to 1
          std::memcpy(bytes + 2 * i, &half, 2);
        } else {
          bytes[i] = static_cast<std::byte>(random.below(256));
        }
      }
      if (gather.table == TableType::kInt8) {
        float scale_and_bias[2] = {0.01F, random.value()};
        std::memcpy(bytes + gather.dim, scale_and_bias, 8);
      }
    }
    for (int64_t slot = 0; slot < pool_base_.count(); ++slot) pool_base_[slot] = slot % 2;
    for (int64_t bag = 0; bag < rows + 1; ++bag) offsets_[bag + 1] = offsets_[bag] + (bag == 0 ? 2 : random.below(3));
    ids_ = std::make_unique<Exact<int64_t>>(offsets_[rows + 1], shift);
    for (int64_t i = 0; i < ids_->count(); ++i) (*ids_)[i] = random.below(kPoolRows - 1);
    for (int64_t slot = 0; slot < pool_base_.count(); ++slot) {
      if (pool_base_[slot] == 1) (*ids_)[0] = kPoolRows - 2;
    }
    bag_index_ = std::make_unique<Exact<int64_t>>(rows * gather.slots, shift);
    for (int64_t i = 0; i < bag_index_->count(); ++i) (*bag_index_)[i] = i % 2 == 0 ? 0 : random.below(rows + 1);
    in_.pool = pool_->data();
    in_.pool_rows = kPoolRows;
    in_.pool_base = pool_base_.data();
    in_.ids = ids_->data();
    in_.offsets = offsets_.data();
    in_.bag_index = bag_index_->data();
  }

  Inputs in_{};
  AlignedMemory arena_;
  Exact<int32_t> block_slot_;
  Exact<float> dense_, out_;
  Exact<int64_t> pool_base_, offsets_;
  std::unique_ptr<Exact<std::byte>> pool_;
  std::unique_ptr<Exact<int64_t>> ids_, bag_index_;
};

constexpr Precision kPrecisions[] = {Precision::kFp32, Precision::kBf16, Precision::kInt8};
constexpr TableType kTables[] = {TableType::kFp32, TableType::kFp16, TableType::kInt8};

}  // namespace smt::cpu::test
