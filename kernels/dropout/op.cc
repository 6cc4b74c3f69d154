// Dropout by given bits, on the CPU: one pass over the values each way, where PyTorch's own ops make six.
//
//   smt::dropout                x, bits -> what is kept of x, scaled; its gradient is the same op
//   smt::dropout_relu_          the same of max(x + bias, 0), in place
//   smt::dropout_relu_backward  by the result alone: that is positive where x + bias was, and was kept; and the bias's
//   smt::random_words_          the bits: SplitMix64 (doi 10.1145/2660193.2660195), which any thread can begin anywhere
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>

#include "column_sums.h"

namespace smt::cpu {
namespace {

constexpr int64_t kSteps = int64_t{1} << 16;

void check(const at::Tensor& values, const char* name) {
  TORCH_CHECK_VALUE(values.scalar_type() == at::kFloat && values.is_contiguous() && values.is_cpu(), name,
                    ": found another tensor; expected a contiguous one of float32 on the CPU");
}

float scale_of(int64_t dropped) {
  TORCH_CHECK_VALUE(dropped >= 0 && dropped < kSteps, "dropped: found ", dropped, "; expected 0 to 65535");
  return static_cast<float>(static_cast<double>(kSteps) / static_cast<double>(kSteps - dropped));
}

void check_bits(const at::Tensor& x, const at::Tensor& bits) {
  TORCH_CHECK_VALUE(
      bits.scalar_type() == at::kShort && bits.is_contiguous() && bits.is_cpu() && bits.numel() >= x.numel(),
      "bits: expected contiguous int16 on the CPU, one for each of the ", x.numel(), " values");
}

// A value that is no number stays none, also when it is dropped: training notices it by its loss.
void drop(const float* x, const int16_t* bits, int16_t least, float scale, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * (bits[i] >= least ? scale : 0.0F);
}

template <bool kBias>
void drop_relu(float* __restrict x, const float* __restrict bias, const int16_t* __restrict bits, int16_t least,
               float scale, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    float value = kBias ? x[i] + bias[i] : x[i];
    x[i] = (value < 0 ? 0.0F : value) * (bits[i] >= least ? scale : 0.0F);
  }
}

// Written so that no load hangs on a comparison: the loop then has no branches, of which half would be mispredicted.
void drop_gradient(const float* __restrict gradient, const float* __restrict y, float scale, float* __restrict to,
                   float* __restrict sums, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    float moved = gradient[i] * scale;
    moved = y[i] <= 0 ? 0.0F : moved;
    to[i] = moved;
    sums[i] += moved;
  }
}

// Rows and columns of x, whatever its shape: a row is what one bias is for.
std::tuple<int64_t, int64_t> matrix_of(const at::Tensor& x) {
  int64_t columns = x.dim() ? x.size(-1) : 1;
  return {columns ? x.numel() / columns : 0, columns};
}

at::Tensor dropout(const at::Tensor& x, const at::Tensor& bits, int64_t dropped) {
  check(x, "x");
  check_bits(x, bits);
  float scale = scale_of(dropped);
  auto least = static_cast<int16_t>(dropped - kSteps / 2);
  at::Tensor y = at::empty_like(x);
  const auto* from = x.const_data_ptr<float>();
  const auto* random = bits.const_data_ptr<int16_t>();
  auto* to = y.mutable_data_ptr<float>();
  at::parallel_for(0, x.numel(), kGrain, [&](int64_t begin, int64_t end) {
    drop(from + begin, random + begin, least, scale, to + begin, end - begin);
  });
  return y;
}

at::Tensor& dropout_relu(at::Tensor& x, const std::optional<at::Tensor>& bias, const at::Tensor& bits,
                         int64_t dropped) {
  check(x, "x");
  check_bits(x, bits);
  auto [rows, columns] = matrix_of(x);
  const float* biases = nullptr;
  if (bias) {
    check(*bias, "bias");
    TORCH_CHECK_VALUE(bias->dim() == 1 && bias->size(0) == columns, "bias: found shape ", bias->sizes(),
                      "; expected one for each of the ", columns, " columns");
    biases = bias->const_data_ptr<float>();
  }
  float scale = scale_of(dropped);
  auto least = static_cast<int16_t>(dropped - kSteps / 2);
  auto* values = x.mutable_data_ptr<float>();
  const auto* random = bits.const_data_ptr<int16_t>();
  auto* pass = biases ? drop_relu<true> : drop_relu<false>;
  at::parallel_for(0, rows, kGrain / std::max<int64_t>(1, columns) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin * columns; at < end * columns; at += columns)
      pass(values + at, biases, random + at, least, scale, columns);
  });
  return x;
}

std::tuple<at::Tensor, at::Tensor> dropout_relu_backward(const at::Tensor& gradient, const at::Tensor& y,
                                                         int64_t dropped) {
  check(gradient, "gradient");
  check(y, "y");
  TORCH_CHECK_VALUE(gradient.sizes() == y.sizes(), "gradient: found shape ", gradient.sizes(), "; expected ",
                    y.sizes());
  float scale = scale_of(dropped);
  at::Tensor result = at::empty_like(gradient);
  const auto* from = gradient.const_data_ptr<float>();
  const auto* kept = y.const_data_ptr<float>();
  auto* to = result.mutable_data_ptr<float>();
  auto [rows, columns] = matrix_of(y);
  at::Tensor bias = with_column_sums(rows, columns, [&, n = columns](int64_t begin, int64_t end, float* sums) {
    for (int64_t at = begin * n; at < end * n; at += n) drop_gradient(from + at, kept + at, scale, to + at, sums, n);
  });
  return {result, bias};
}

at::Tensor& random_words(at::Tensor& words, int64_t seed) {
  TORCH_CHECK_VALUE(words.scalar_type() == at::kLong && words.is_contiguous() && words.is_cpu(),
                    "words: found another tensor; expected a contiguous one of int64 on the CPU");
  auto* to = words.mutable_data_ptr<int64_t>();
  at::parallel_for(0, words.numel(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      uint64_t word = static_cast<uint64_t>(seed) + (static_cast<uint64_t>(i) + 1) * 0x9E3779B97F4A7C15;
      word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9;
      word = (word ^ (word >> 27)) * 0x94D049BB133111EB;
      to[i] = static_cast<int64_t>(word ^ (word >> 31));
    }
  });
  return words;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(smt, library) {
  library.def("dropout(Tensor x, Tensor bits, int dropped) -> Tensor");
  library.def("dropout_relu_(Tensor(a!) x, Tensor? bias, Tensor bits, int dropped) -> Tensor(a!)");
  library.def("dropout_relu_backward(Tensor gradient, Tensor y, int dropped) -> (Tensor, Tensor)");
  library.def("random_words_(Tensor(a!) words, int seed) -> Tensor(a!)");
}

TORCH_LIBRARY_IMPL(smt, CPU, library) {
  library.impl("dropout", dropout);
  library.impl("dropout_relu_", dropout_relu);
  library.impl("dropout_relu_backward", dropout_relu_backward);
  library.impl("random_words_", random_words);
}

}  // namespace smt::cpu
