// Dropout by given bits, on the CPU: one pass over the values each way, where PyTorch's own ops make six.
//
//   smt::dropout                x, bits -> what is kept of x, scaled; its gradient is the same op
//   smt::dropout_relu_          the same of max(x, 0), in place
//   smt::dropout_relu_backward  by the result alone: that is positive where x was, and was kept
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <cstdint>

namespace smt::cpu {
namespace {

constexpr int64_t kSteps = int64_t{1} << 16;
constexpr int64_t kGrain = int64_t{1} << 15;  // values a thread takes at least: less is not worth waking it

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
template <bool kRelu>
void drop(const float* x, const int16_t* bits, int16_t least, float scale, float* y, int64_t n) {  // y may be x
  for (int64_t i = 0; i < n; ++i) {
    float value = kRelu && x[i] < 0 ? 0.0F : x[i];
    y[i] = value * (bits[i] >= least ? scale : 0.0F);
  }
}

// Written so that no load hangs on a comparison: the loop then has no branches, of which half would be mispredicted.
void drop_gradient(const float* __restrict gradient, const float* __restrict y, float scale, float* __restrict to,
                   int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    float moved = gradient[i] * scale;
    to[i] = y[i] <= 0 ? 0.0F : moved;
  }
}

template <bool kRelu>
void drop_all(const at::Tensor& x, const at::Tensor& bits, int64_t dropped, const at::Tensor& y) {
  float scale = scale_of(dropped);
  auto least = static_cast<int16_t>(dropped - kSteps / 2);
  const float* from = x.const_data_ptr<float>();
  const int16_t* random = bits.const_data_ptr<int16_t>();
  float* to = y.mutable_data_ptr<float>();
  at::parallel_for(0, x.numel(), kGrain, [&](int64_t begin, int64_t end) {
    drop<kRelu>(from + begin, random + begin, least, scale, to + begin, end - begin);
  });
}

at::Tensor dropout(const at::Tensor& x, const at::Tensor& bits, int64_t dropped) {
  check(x, "x");
  check_bits(x, bits);
  at::Tensor y = at::empty_like(x);
  drop_all<false>(x, bits, dropped, y);
  return y;
}

at::Tensor& dropout_relu(at::Tensor& x, const at::Tensor& bits, int64_t dropped) {
  check(x, "x");
  check_bits(x, bits);
  drop_all<true>(x, bits, dropped, x);
  return x;
}

at::Tensor dropout_relu_backward(const at::Tensor& gradient, const at::Tensor& y, int64_t dropped) {
  check(gradient, "gradient");
  check(y, "y");
  TORCH_CHECK_VALUE(gradient.numel() == y.numel(), "gradient: found ", gradient.numel(), " values; expected ",
                    y.numel());
  float scale = scale_of(dropped);
  at::Tensor result = at::empty_like(gradient);
  const float* from = gradient.const_data_ptr<float>();
  const float* kept = y.const_data_ptr<float>();
  float* to = result.mutable_data_ptr<float>();
  at::parallel_for(0, y.numel(), kGrain, [&](int64_t begin, int64_t end) {
    drop_gradient(from + begin, kept + begin, scale, to + begin, end - begin);
  });
  return result;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(smt, library) {
  library.def("dropout(Tensor x, Tensor bits, int dropped) -> Tensor");
  library.def("dropout_relu_(Tensor(a!) x, Tensor bits, int dropped) -> Tensor(a!)");
  library.def("dropout_relu_backward(Tensor gradient, Tensor y, int dropped) -> Tensor");
}

TORCH_LIBRARY_IMPL(smt, CPU, library) {
  library.impl("dropout", dropout);
  library.impl("dropout_relu_", dropout_relu);
  library.impl("dropout_relu_backward", dropout_relu_backward);
}

}  // namespace smt::cpu
