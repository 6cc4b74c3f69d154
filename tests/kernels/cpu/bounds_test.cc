// Nothing is read or written outside the buffers of a call: each has its exact size, so that the address sanitizer sees
// it. Without a sanitizer these tests say that all kernels agree on such calls.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>

#include "network.h"

namespace smt::cpu::test {
namespace {

std::vector<float> run(const CompiledProgram& program, const Kernels& kernels, const Call& call) {
  execute(program, kernels, call.inputs(), 0, call.rows());
  return call.result();
}

// `values` with another precision.
CompiledProgram with(std::vector<int64_t> values, Precision precision) {
  values[1] = static_cast<int64_t>(precision);
  return CompiledProgram(values);
}

// All kernels and precisions give nearly the probabilities of portable fp32.
void expect_agreement(const std::vector<int64_t>& values, int64_t rows, int64_t slots, int64_t shift) {
  CompiledProgram exact = with(values, Precision::kFp32);
  std::vector<float> expected = run(exact, portable_kernels(), Call(exact, portable_kernels(), rows, slots, 7, shift));
  for (Precision precision : kPrecisions) {
    CompiledProgram program = with(values, precision);
    float tolerance = precision == Precision::kFp32 ? 1e-4F : precision == Precision::kBf16 ? 0.05F : 0.15F;
    for (const Kernels* kernels : all_kernels()) {
      Call call(program, *kernels, rows, slots, 7, shift);
      std::vector<float> found = run(program, *kernels, call);
      ASSERT_EQ(found.size(), expected.size());
      for (size_t i = 0; i < found.size(); ++i) {
        ASSERT_NEAR(found[i], expected[i], tolerance)
            << kernels->name << ", precision " << static_cast<int64_t>(precision) << ", rows " << rows << ", at " << i;
      }
    }
  }
}

TEST(Bounds, Rows) {
  for (int64_t rows : {0, 1, 2, 15, 16, 17, 31, 33, 97, 200}) {
    expect_agreement(deep_program(Precision::kFp32, TableType::kFp32, 11), rows, 2, 0);
  }
}

TEST(Bounds, TableRowsOfAllWidths) {
  for (TableType table : kTables) {
    for (int64_t dim : {1, 2, 7, 15, 16, 17, 24, 31, 32, 33, 40}) {
      expect_agreement(deep_program(Precision::kFp32, table, dim), 17, 2, 1);
      expect_agreement(dot_program(Precision::kFp32, table, dim, 3), 5, 2, 1);
    }
  }
}

TEST(Bounds, OutputsOfAllWidths) {
  for (int64_t tasks = 1; tasks <= 19; ++tasks) {
    for (int64_t rows : {1, 3, 16, 21}) {
      expect_agreement(dot_program(Precision::kFp32, TableType::kInt8, 5, tasks), rows, 1, 1);
    }
  }
}

// Programs that end without heads write activations.
TEST(Bounds, ActivationsAsOutput) {
  for (int64_t units : {1, 5, 15, 16, 17, 31, 33, 64}) {
    for (Precision precision : kPrecisions) {
      Writer writer(precision, units);
      writer.mlp({units}, Activation::kRelu, false).cross_full(2);
      CompiledProgram program(writer.values());
      for (const Kernels* kernels : all_kernels()) {
        Call call(program, *kernels, 19, 2, 3, 1);
        std::vector<float> found = run(program, *kernels, call);
        ASSERT_EQ(found.size(), static_cast<size_t>(19 * units));
        for (float value : found) ASSERT_TRUE(std::isfinite(value)) << kernels->name;
      }
    }
  }
}

// A call may be cut anywhere.
TEST(Bounds, PartsOfACall) {
  CompiledProgram program(deep_program(Precision::kFp32, TableType::kFp16, 11));
  for (const Kernels* kernels : all_kernels()) {
    Call whole(program, *kernels, 70, 3, 5), parts(program, *kernels, 70, 3, 5);
    std::vector<float> expected = run(program, *kernels, whole);
    int64_t first = 0;
    for (int64_t last : {0, 1, 9, 9, 30, 48, 69, 70}) {
      execute(program, *kernels, parts.inputs(), first, last);
      first = last;
    }
    std::vector<float> found = parts.result();
    for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], 1e-5F) << kernels->name;
  }
}

TEST(Bounds, IdsOutsideThePoolAreRefused) {
  constexpr int64_t kLeast = std::numeric_limits<int64_t>::min(), kMost = std::numeric_limits<int64_t>::max();
  for (TableType table : kTables) {
    CompiledProgram program(deep_program(Precision::kFp32, table, 7));
    for (const Kernels* kernels : all_kernels()) {
      for (int64_t base : {int64_t{0}, int64_t{1}, Call::kPoolRows, Call::kPoolRows + 1, int64_t{-1}, kLeast, kMost}) {
        for (int64_t id : {int64_t{0}, Call::kPoolRows - 1, Call::kPoolRows, int64_t{-1}, kLeast, kMost}) {
          Call call(program, *kernels, 20, 1, 1);
          const_cast<int64_t*>(call.inputs().pool_base)[0] = base;
          for (int64_t i = 0; i < call.inputs().offsets[21]; ++i) const_cast<int64_t*>(call.inputs().ids)[i] = id;
          bool inside = (base == 0 && id >= 0 && id < Call::kPoolRows) || (base == 1 && id == 0);
          if (inside) {
            EXPECT_NO_THROW(execute(program, *kernels, call.inputs(), 0, 20));
          } else {
            EXPECT_THROW(execute(program, *kernels, call.inputs(), 0, 20), std::out_of_range) << base << " " << id;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace smt::cpu::test
