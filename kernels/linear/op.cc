// Matrix products of training, on the CPU, in float32.
//
//   smt::product        a b
//   smt::product_onto_  onto += a b
//
// torch's own are MKL's, which on other CPUs than Intel's are slower than OpenBLAS by a tenth and more. There, these
// are OpenBLAS's; elsewhere torch's.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <cblas.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <limits>

namespace smt::cpu {
namespace {

// Operations that a thread gets at least: less is not worth waking it.
constexpr int64_t kGrainFlops = int64_t{1} << 22;

// Asked once. OpenBLAS's own threads wait for each other, and for OpenMP's on the same cores: it is called by OpenMP's
// threads, for rows of each, and keeps to the thread that calls it.
bool openblas_is_faster() {
#if defined(__x86_64__)
  static const bool faster = [] {
    if (!at::hasMKL() || __builtin_cpu_is("intel")) return false;
    scipy_openblas_set_num_threads(1);
    return true;
  }();
  return faster;
#else
  return false;
#endif
}

// A matrix as BLAS reads it: rows side by side, or columns.
struct Operand {
  at::Tensor tensor;  // keeps what `values` points to
  const float* values;
  CBLAS_TRANSPOSE order;
  int64_t stride;

  const float* from_row(int64_t row) const { return values + row * (order == CblasTrans ? 1 : stride); }
};

Operand operand(const at::Tensor& x) {
  for (auto [order, along, across] : {std::tuple{CblasNoTrans, 1, 0}, std::tuple{CblasTrans, 0, 1}})
    if (x.stride(along) == 1 && x.stride(across) >= x.size(along))
      return {x, x.const_data_ptr<float>(), order, x.stride(across)};
  at::Tensor copy = x.contiguous();
  return {copy, copy.const_data_ptr<float>(), CblasNoTrans, std::max<int64_t>(1, copy.size(1))};
}

void check(const at::Tensor& x, const char* name) {
  TORCH_CHECK_VALUE(x.scalar_type() == at::kFloat && x.is_cpu() && x.dim() == 2, name, ": found ", x.scalar_type(), " ",
                    x.sizes(), " on ", x.device(), "; expected a matrix of float32 on the CPU");
}

bool fits_blas(std::initializer_list<int64_t> sizes) { return std::max(sizes) <= std::numeric_limits<blasint>::max(); }

void multiply(const at::Tensor& a, const at::Tensor& b, float beta, const at::Tensor& to) {
  int64_t m = a.size(0), k = a.size(1), n = b.size(1);
  Operand left = operand(a), right = operand(b);
  auto* out = to.mutable_data_ptr<float>();
  int64_t grain = kGrainFlops / std::max<int64_t>(1, 2 * n * k) + 1;
  at::parallel_for(0, m, grain, [&](int64_t begin, int64_t end) {
    scipy_cblas_sgemm(CblasRowMajor, left.order, right.order, static_cast<blasint>(end - begin),
                      static_cast<blasint>(n), static_cast<blasint>(k), 1.0F, left.from_row(begin),
                      static_cast<blasint>(left.stride), right.values, static_cast<blasint>(right.stride), beta,
                      out + begin * n, static_cast<blasint>(n));
  });
}

// Whether `multiply` does it: not what is empty, as BLAS wants strides of 1 and more.
bool by_openblas(const at::Tensor& a, const at::Tensor& b) {
  return openblas_is_faster() && a.numel() > 0 && b.numel() > 0 &&
         fits_blas({a.size(0), a.size(1), b.size(1), a.stride(0), a.stride(1), b.stride(0), b.stride(1)});
}

void check_product(const at::Tensor& a, const at::Tensor& b) {
  check(a, "a");
  check(b, "b");
  TORCH_CHECK_VALUE(a.size(1) == b.size(0), "b: found ", b.sizes(), "; expected ", a.size(1),
                    " rows, the columns of a");
}

at::Tensor product(const at::Tensor& a, const at::Tensor& b) {
  check_product(a, b);
  if (!by_openblas(a, b)) return at::mm(a, b);
  at::Tensor result = at::empty({a.size(0), b.size(1)}, a.options());
  multiply(a, b, 0.0F, result);
  return result;
}

at::Tensor& product_onto(at::Tensor& onto, const at::Tensor& a, const at::Tensor& b) {
  check_product(a, b);
  check(onto, "onto");
  TORCH_CHECK_VALUE(onto.is_contiguous() && onto.size(0) == a.size(0) && onto.size(1) == b.size(1), "onto: found ",
                    onto.sizes(), "; expected a contiguous matrix of ", a.size(0), " x ", b.size(1));
  if (!by_openblas(a, b)) return onto.addmm_(a, b);
  multiply(a, b, 1.0F, onto);
  return onto;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(smt, library) {
  library.def("product(Tensor a, Tensor b) -> Tensor");
  library.def("product_onto_(Tensor(a!) onto, Tensor a, Tensor b) -> Tensor(a!)");
}

TORCH_LIBRARY_IMPL(smt, CPU, library) {
  library.impl("product", product);
  library.impl("product_onto_", product_onto);
}

}  // namespace smt::cpu
