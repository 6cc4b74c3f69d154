// Full cross layers in training, on the CPU: all between two matrix products in one pass each way.
//
//   smt::cross_step           x0 * (z + bias) + x
//   smt::cross_step_backward  gradients of z and bias; what x0 gets is added up over the layers
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <tuple>

#include "column_sums.h"

namespace smt::cpu {
namespace {

void check_step(const at::Tensor& x0, std::initializer_list<const at::Tensor*> others, const at::Tensor& bias) {
  auto fits = [](const at::Tensor& x) { return x.scalar_type() == at::kFloat && x.is_contiguous() && x.is_cpu(); };
  bool good = x0.dim() == 2 && fits(x0) && fits(bias) && bias.dim() == 1 && bias.size(0) == x0.size(1);
  for (const at::Tensor* other : others) good = good && fits(*other) && other->sizes() == x0.sizes();
  TORCH_CHECK_VALUE(good, "cross: found other tensors; expected contiguous ones of float32 on the CPU, of x0's shape ",
                    x0.sizes(), ", and a bias for each column");
}

void step(const float* __restrict x0, const float* __restrict z, const float* __restrict bias,
          const float* __restrict x, float* __restrict y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = x0[i] * (z[i] + bias[i]) + x[i];
}

// kLast: of the last layer, with which the backward begins: dx0 holds nothing yet. kFirst: of the first, whose x is x0.
template <bool kLast, bool kFirst>
void step_gradient(const float* __restrict gradient, const float* __restrict x0, const float* __restrict z,
                   const float* __restrict bias, float* __restrict dz, float* __restrict dbias, float* __restrict dx0,
                   int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    float g = gradient[i];
    float moved = g * x0[i];
    float crossed = g * (z[i] + bias[i]);
    if constexpr (kFirst) crossed += g;
    dz[i] = moved;
    dbias[i] += moved;
    dx0[i] = kLast ? crossed : dx0[i] + crossed;
  }
}

at::Tensor cross_step(const at::Tensor& x0, const at::Tensor& z, const at::Tensor& bias, const at::Tensor& x) {
  check_step(x0, {&z, &x}, bias);
  at::Tensor y = at::empty_like(x0);
  int64_t columns = x0.size(1);
  const auto *x0s = x0.const_data_ptr<float>(), *zs = z.const_data_ptr<float>(), *biases = bias.const_data_ptr<float>(),
             *xs = x.const_data_ptr<float>();
  auto* to = y.mutable_data_ptr<float>();
  int64_t grain = kGrain / std::max<int64_t>(1, columns) + 1;
  at::parallel_for(0, x0.size(0), grain, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin * columns; at < end * columns; at += columns)
      step(x0s + at, zs + at, biases, xs + at, to + at, columns);
  });
  return y;
}

std::tuple<at::Tensor, at::Tensor> cross_step_backward(const at::Tensor& gradient, const at::Tensor& x0,
                                                       const at::Tensor& z, const at::Tensor& bias, at::Tensor& dx0,
                                                       bool last, bool first) {
  check_step(x0, {&gradient, &z, &dx0}, bias);
  at::Tensor dz = at::empty_like(z);
  int64_t columns = x0.size(1);
  const auto *gradients = gradient.const_data_ptr<float>(), *x0s = x0.const_data_ptr<float>(),
             *zs = z.const_data_ptr<float>(), *biases = bias.const_data_ptr<float>();
  auto *to = dz.mutable_data_ptr<float>(), *sums_x0 = dx0.mutable_data_ptr<float>();
  auto* pass = last ? (first ? step_gradient<true, true> : step_gradient<true, false>)
                    : (first ? step_gradient<false, true> : step_gradient<false, false>);
  at::Tensor dbias = with_column_sums(x0.size(0), columns, [&](int64_t begin, int64_t end, float* sums) {
    for (int64_t at = begin * columns; at < end * columns; at += columns)
      pass(gradients + at, x0s + at, zs + at, biases, to + at, sums, sums_x0 + at, columns);
  });
  return {dz, dbias};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(smt, library) {
  library.def("cross_step(Tensor x0, Tensor z, Tensor bias, Tensor x) -> Tensor");
  library.def(
      "cross_step_backward(Tensor gradient, Tensor x0, Tensor z, Tensor bias, Tensor(a!) dx0, bool last, bool first) "
      "-> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(smt, CPU, library) {
  library.impl("cross_step", cross_step);
  library.impl("cross_step_backward", cross_step_backward);
}

}  // namespace smt::cpu
