// A pass over the rows of a matrix that also sums columns, as a bias's gradient needs it.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdint>

namespace smt::cpu {

// Rows that are summed one after the other. The same for any number of threads, so that sums are the same bits.
inline constexpr int64_t kSumRows = 128;
inline constexpr int64_t kGrain = int64_t{1} << 15;  // values a thread takes at least: less is not worth waking it

// Calls pass(first row, end, sums [columns]) for all rows, on several threads; it adds to `sums`, which begin as zeros.
// Returns the sums over all rows: [columns], float32.
template <typename Pass>
at::Tensor with_column_sums(int64_t rows, int64_t columns, const Pass& pass) {
  int64_t blocks = (rows + kSumRows - 1) / kSumRows;
  at::Tensor partial = at::zeros({blocks, columns}, at::kFloat);
  float* sums = partial.mutable_data_ptr<float>();
  int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, kSumRows * columns));
  at::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block)
      pass(block * kSumRows, std::min(rows, (block + 1) * kSumRows), sums + block * columns);
  });
  return partial.sum(0);
}

}  // namespace smt::cpu
