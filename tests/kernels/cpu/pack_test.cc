// Packed weights, read back by the layout that program.h describes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>

#include "network.h"

namespace smt::cpu::test {
namespace {

// Where weight (n, k) of a group lies, in elements of the group; `unit` k of a column lie together, `depth` k a block.
int64_t place(const Matrix& m, int64_t n, int64_t k, int64_t unit, int64_t depth) {
  int64_t panel = n / kPanel, columns = std::min(kPanel, m.n16 - panel * kPanel);
  int64_t whole = std::max<int64_t>(depth, 4);
  int64_t padded_k = (m.k + whole - 1) / whole * whole;
  return panel * kPanel * padded_k      // the panels before
         + k / depth * depth * columns  // the blocks before
         + n % kPanel / kLanes * kLanes * depth + k % depth / unit * kLanes * unit + n % kLanes * unit + k % unit;
}

struct Packed {
  explicit Packed(const std::vector<int64_t>& values, Weights16 weights16 = Weights16::kBf16, uint32_t seed = 1)
      : program(values),
        weights16(weights16),
        slab(static_cast<size_t>(program.program().slab_elements)),
        slot(program.program().packed_bytes) {
    Random random(seed);
    for (float& weight : slab) weight = random.value() * 2;
    pack();
  }
  void pack() {
    std::memset(slot.data(), 0xee, static_cast<size_t>(slot.bytes()));
    program.pack(slab, weights16, slot.data());
  }
  const Matrix& matrix() const { return program.program().steps[0].layers[0].matrix; }
  template <class T>
  T at(int64_t offset, int64_t element) const {
    T value;
    std::memcpy(&value, slot.data() + offset + element * static_cast<int64_t>(sizeof(T)), sizeof(T));
    return value;
  }

  CompiledProgram program;
  Weights16 weights16;
  std::vector<float> slab;
  AlignedMemory slot;
};

std::vector<int64_t> one_layer(Precision precision, int64_t inputs, int64_t units) {
  Writer writer(precision, inputs);
  return writer.mlp({units}, Activation::kRelu, false).values();
}

struct Shape {
  int64_t k, n;
};
constexpr Shape kShapes[] = {{1, 1}, {3, 15}, {16, 16}, {31, 17}, {32, 32}, {33, 33}, {64, 48}, {65, 49}, {100, 100}};

float from_bf16(uint16_t half) {
  uint32_t bits = uint32_t{half} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

TEST(Pack, Fp32IsTheWeights) {
  for (auto [k, n] : kShapes) {
    Packed packed(one_layer(Precision::kFp32, k, n));
    const Matrix& m = packed.matrix();
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        ASSERT_EQ(packed.at<float>(m.weight, place(m, i, j, 1, 1)), packed.slab[static_cast<size_t>(i * k + j)]);
      }
      ASSERT_EQ(packed.at<float>(m.bias, i), packed.slab[static_cast<size_t>(n * k + i)]);
    }
  }
}

TEST(Pack, Bf16IsTheNearest) {
  for (auto [k, n] : kShapes) {
    Packed packed(one_layer(Precision::kBf16, k, n));
    const Matrix& m = packed.matrix();
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        auto half = packed.at<uint16_t>(m.weight, place(m, i, j, 2, 32));
        float weight = packed.slab[static_cast<size_t>(i * k + j)];
        float found = from_bf16(half);
        for (int step : {-1, 1}) {  // no neighbour is nearer
          float neighbour = from_bf16(static_cast<uint16_t>(half + step));
          ASSERT_LE(std::fabs(found - weight), std::fabs(neighbour - weight)) << weight;
        }
      }
    }
  }
}

TEST(Pack, Bf16TiesGoToEven) {
  Packed packed(one_layer(Precision::kBf16, 2, 1));
  packed.slab = {1.0F + 0x1p-8F, 1.0F + 3 * 0x1p-8F, 0.0F};
  packed.pack();
  EXPECT_EQ(from_bf16(packed.at<uint16_t>(packed.matrix().weight, 0)), 1.0F);
  EXPECT_EQ(from_bf16(packed.at<uint16_t>(packed.matrix().weight, 1)), 1.0F + 4 * 0x1p-8F);
}

TEST(Pack, IntegersAreWithinHalfAStepAndLeaveRoomForSums) {
  for (auto [k, n] : kShapes) {
    Packed packed(one_layer(Precision::kBf16, k, n), Weights16::kIntegers);
    const Matrix& m = packed.matrix();
    auto levels = static_cast<int64_t>(packed.at<float>(m.levels, 0));
    ASSERT_GE(levels, 1024);  // finer than the eight bits of bf16
    for (int64_t i = 0; i < n; ++i) {
      auto scale = packed.at<float>(m.scale, i);
      int64_t sum = 0;
      for (int64_t j = 0; j < k; ++j) {
        auto q = packed.at<int16_t>(m.weight, place(m, i, j, 2, 32));
        float weight = packed.slab[static_cast<size_t>(i * k + j)];
        ASSERT_LE(std::fabs(static_cast<float>(q) * scale - weight), scale * 0.51F);
        sum += std::abs(q);
      }
      ASSERT_LE(sum * levels, std::numeric_limits<int32_t>::max());
    }
  }
}

TEST(Pack, IntegersOfAZeroColumnAndOfExtremes) {
  Packed packed(one_layer(Precision::kBf16, 2, 3), Weights16::kIntegers);
  constexpr float kMost = std::numeric_limits<float>::max(), kLeast = std::numeric_limits<float>::denorm_min();
  packed.slab = {0, 0, kMost, -kMost, kLeast, -kLeast, 0, 0, 0};
  packed.pack();
  const Matrix& m = packed.matrix();
  auto levels = static_cast<int64_t>(packed.at<float>(m.levels, 0));
  int16_t high = packed.at<int16_t>(m.weight, place(m, 1, 0, 2, 32));
  EXPECT_EQ(packed.at<int16_t>(m.weight, place(m, 1, 1, 2, 32)), -high);
  EXPECT_GT(high, 1024);
  EXPECT_LE(2 * high * levels, std::numeric_limits<int32_t>::max());
  EXPECT_FLOAT_EQ(packed.at<float>(m.scale, 1), kMost / high);
  for (int64_t i : {0, 2}) {
    EXPECT_EQ(packed.at<float>(m.scale, i), 0.0F);
    for (int64_t j = 0; j < 2; ++j) EXPECT_EQ(packed.at<int16_t>(m.weight, place(m, i, j, 2, 32)), 0);
  }
}

TEST(Pack, SaysWhatItsWeightsAre) {
  for (Weights16 weights16 : {Weights16::kBf16, Weights16::kIntegers}) {
    Packed packed(one_layer(Precision::kBf16, 2, 3), weights16);
    EXPECT_EQ(packed.at<Weights16>(packed.program.program().packed_as, 0), weights16);
  }
}

TEST(Pack, Int8IsWithinHalfAStep) {
  for (auto [k, n] : kShapes) {
    Packed packed(one_layer(Precision::kInt8, k, n));
    const Matrix& m = packed.matrix();
    for (int64_t i = 0; i < n; ++i) {
      auto scale = packed.at<float>(m.scale, i);
      float largest = 0;
      int32_t sum = 0;
      for (int64_t j = 0; j < k; ++j) {
        auto q = packed.at<int8_t>(m.weight, place(m, i, j, 4, 64));
        float weight = packed.slab[static_cast<size_t>(i * k + j)];
        ASSERT_LE(std::fabs(static_cast<float>(q) * scale - weight), scale * 0.5001F);
        largest = std::max(largest, std::fabs(weight));
        sum += q;
      }
      ASSERT_FLOAT_EQ(scale, largest / 127);
      ASSERT_EQ(packed.at<int32_t>(m.shift, i), 128 * sum);
    }
  }
}

// All bytes that hold no weight are zero: products run over them.
TEST(Pack, PaddingIsZero) {
  for (auto [precision, weights16] : {std::pair{Precision::kFp32, Weights16::kBf16},
                                      {Precision::kBf16, Weights16::kBf16},
                                      {Precision::kBf16, Weights16::kIntegers},
                                      {Precision::kInt8, Weights16::kBf16}}) {
    int64_t unit = precision == Precision::kFp32 ? 1 : precision == Precision::kBf16 ? 2 : 4;
    int64_t depth = precision == Precision::kFp32 ? 1 : precision == Precision::kBf16 ? 32 : 64;
    int64_t bytes = 4 / unit;
    for (auto [k, n] : kShapes) {
      Packed packed(one_layer(precision, k, n), weights16);
      const Matrix& m = packed.matrix();
      std::vector<bool> used(static_cast<size_t>(packed.slot.bytes()));
      auto use = [&](int64_t offset, int64_t count) {
        for (int64_t i = 0; i < count; ++i) {
          ASSERT_FALSE(used[static_cast<size_t>(offset + i)]) << "two weights in one place";
          used[static_cast<size_t>(offset + i)] = true;
        }
      };
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < k; ++j) use(m.weight + place(m, i, j, unit, depth) * bytes, bytes);
      }
      use(m.bias, n * 4);
      if (precision == Precision::kInt8) {
        use(m.scale, n * 4);
        use(m.shift, n * 4);
      }
      if (weights16 == Weights16::kIntegers) {
        use(packed.program.program().packed_as, 4);
        if (precision == Precision::kBf16) {
          use(m.scale, n * 4);
          use(m.levels, 4);
        }
      }
      for (size_t i = 0; i < used.size(); ++i) {
        ASSERT_TRUE(used[i] || packed.slot.data()[i] == std::byte{0}) << i;
      }
    }
  }
}

TEST(Pack, Int8OfAZeroColumnAndOfExtremes) {
  Packed packed(one_layer(Precision::kInt8, 2, 3));
  constexpr float kMost = std::numeric_limits<float>::max(), kLeast = std::numeric_limits<float>::denorm_min();
  packed.slab = {0, 0, kMost, -kMost, kLeast, -kLeast, 0, 0, 0};
  packed.pack();
  const Matrix& m = packed.matrix();
  EXPECT_EQ(packed.at<float>(m.scale, 0), 0.0F);
  EXPECT_EQ(packed.at<int8_t>(m.weight, place(m, 0, 0, 4, 64)), 0);
  EXPECT_EQ(packed.at<int8_t>(m.weight, place(m, 1, 0, 4, 64)), 127);
  EXPECT_EQ(packed.at<int8_t>(m.weight, place(m, 1, 1, 4, 64)), -127);
  for (int64_t j = 0; j < 2; ++j) {  // what a smallest number becomes is worth next to nothing
    float worth = packed.at<float>(m.scale, 2) * packed.at<int8_t>(m.weight, place(m, 2, j, 4, 64));
    EXPECT_LE(std::fabs(worth), 1e-40F);
  }
}

TEST(Pack, RefusesAShortSlab) {
  Packed packed(one_layer(Precision::kBf16, 5, 4));
  packed.slab.pop_back();
  EXPECT_THROW(packed.pack(), std::invalid_argument);
}

// Packing reads the slab and writes the slot to their last element and no further.
TEST(Pack, StaysInsideItsBuffers) {
  for (Precision precision : kPrecisions) {
    CompiledProgram program(deep_program(precision, TableType::kInt8, 11));
    Exact<float> slab(program.program().slab_elements, 1);
    for (int64_t i = 0; i < slab.count(); ++i) slab[i] = 0.5F;
    AlignedMemory slot(program.program().packed_bytes);
    for (Weights16 weights16 : {Weights16::kBf16, Weights16::kIntegers}) {
      program.pack({slab.data(), static_cast<size_t>(slab.count())}, weights16, slot.data());
    }
  }
}

}  // namespace
}  // namespace smt::cpu::test
