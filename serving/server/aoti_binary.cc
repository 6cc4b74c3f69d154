#include "aoti_binary.h"

#include <ATen/Parallel.h>
#include <ATen/cpu/Utils.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/version.h>

#include <array>
#include <cstring>
#include <span>
#include <stdexcept>
#include <vector>

#include "cpu_support.h"
#include "names.h"
#include "program.h"
#include "refusal.h"

namespace smt::server {
namespace {

// The version of the ops of kernels/ that are linked into this server; the binary calls them.
constexpr int64_t kKernelVersion = 1;

// "2.13.0+cpu" -> "2.13": AOTInductor's interface to libtorch is stable within a minor version.
std::string minor_version(const std::string& version) {
  size_t first = version.find('.');
  size_t second = first == std::string::npos ? first : version.find('.', first + 1);
  return version.substr(0, second);
}

void check_interface(const std::string& shown, const BinaryManifest& manifest) {
  check_isa(manifest.isa, shown);
  if (manifest.kernel_version != kKernelVersion) {
    throw Refused(Reason::kBinary, shown + ": field 'kernel_version': found " +
                                       std::to_string(manifest.kernel_version) + "; expected " +
                                       std::to_string(kKernelVersion) + ", the kernels in this server");
  }
  if (minor_version(manifest.torch) != minor_version(TORCH_VERSION)) {
    throw Refused(Reason::kBinary, shown + ": field 'torch': found " + quote(manifest.torch) + "; expected " +
                                       minor_version(TORCH_VERSION) + ", which this server is linked with");
  }
}

// The input tensors of a binary: views of the caller's memory. Each thread keeps them and points them elsewhere for
// every call, since making tensors takes 0.7 µs and scoring one row some ten.
class InputViews {
 public:
  explicit InputViews(size_t inputs) : tensors_(inputs) {}

  template <typename T, size_t N>
  void set(size_t input, const T* data, const std::array<int64_t, N>& shape) {
    void* memory = const_cast<T*>(data);  // tensors are made of mutable memory; compiled code does not write inputs
    if (!tensors_[input].defined()) {
      constexpr auto kType = c10::CppTypeToScalarType<T>::value;  // an input is of the same type in every call
      tensors_[input] = at::from_blob(memory, shape, at::TensorOptions().dtype(kType));
      return;
    }
    c10::TensorImpl* tensor = tensors_[input].unsafeGetTensorImpl();
    tensor->set_sizes_contiguous(shape);
    c10::StorageImpl* storage = tensor->storage().unsafeGetStorageImpl();
    storage->set_nbytes(static_cast<size_t>(tensor->numel()) * sizeof(T));
    storage->set_data_ptr_noswap({memory, at::kCPU});
  }
  // Valid until the memory of the last call goes.
  const std::vector<at::Tensor>& tensors() const { return tensors_; }

 private:
  std::vector<at::Tensor> tensors_;
};

class AotiBinary final : public TemplateBinary {
 public:
  AotiBinary(const std::filesystem::path& dir, const std::string& shown, BinaryManifest manifest, size_t instances)
      : TemplateBinary(std::move(manifest), shown),
        // One runner per thread: the container hands a free one to each call and makes callers wait when none is left.
        loader_((dir / "model.pt2").string(), "model", /*run_single_threaded=*/false, instances) {}

  void run(std::span<const int32_t> block_slot, const transform::Batch& batch, std::vector<float>& out) const override {
    auto size = [](const auto& values) { return static_cast<int64_t>(values.size()); };
    if (size(block_slot) != (batch.rows + cpu::kRowBlock - 1) / cpu::kRowBlock) {
      throw std::invalid_argument("block_slot: found " + std::to_string(block_slot.size()) + " entries for " +
                                  std::to_string(batch.rows) + " rows; expected one for each " +
                                  std::to_string(cpu::kRowBlock));
    }
    c10::InferenceMode guard;
    const BinaryManifest& abi = manifest();
    WeightArena::View weights = arena();
    thread_local InputViews fused(8);
    thread_local InputViews views(6);
    InputViews& inputs = abi.kind == BinaryKind::kFused ? fused : views;
    size_t next = 0;
    if (abi.kind == BinaryKind::kFused) {
      inputs.set(next++, reinterpret_cast<const uint8_t*>(weights.slots),
                 std::array{weights.slot_count, abi.packed_bytes});
      inputs.set(next++, block_slot.data(), std::array{size(block_slot)});
      inputs.set(next++, weights.pool, std::array{weights.pool_rows, abi.dim});
      inputs.set(next++, weights.pool_base, std::array{weights.slot_count});
    } else {
      const int32_t slot = only_slot(block_slot);
      const int64_t first_row = weights.pool_base[slot];
      inputs.set(next++, reinterpret_cast<const float*>(weights.slots + slot * abi.packed_bytes),
                 std::array{abi.slab_elements});
      // The table and what lies behind it in the pool: ids are the scenario's own, below its number of rows.
      inputs.set(next++, weights.pool + first_row * abi.dim, std::array{weights.pool_rows - first_row, abi.dim});
    }
    inputs.set(next++, batch.dense.data(), std::array{batch.rows, abi.dense_slots});
    inputs.set(next++, batch.ids.data(), std::array{size(batch.ids)});
    inputs.set(next++, batch.offsets.data(), std::array{size(batch.offsets)});
    inputs.set(next++, batch.bag_index.data(), std::array{batch.rows, abi.categorical_slots});
    std::vector<at::Tensor> outputs = call(inputs.tensors());
    if (outputs.size() != 1 || outputs[0].scalar_type() != at::kFloat || outputs[0].dim() != 2 ||
        outputs[0].size(0) != batch.rows || outputs[0].size(1) != abi.tasks) {
      throw std::runtime_error("the template binary did not return one float32 tensor [" + std::to_string(batch.rows) +
                               ", " + std::to_string(abi.tasks) + "]");
    }
    at::Tensor scores = outputs[0].contiguous();
    out.resize(static_cast<size_t>(scores.numel()));
    std::memcpy(out.data(), scores.const_data_ptr<float>(), out.size() * sizeof(float));
  }

 private:
  static int32_t only_slot(std::span<const int32_t> block_slot) {
    for (int32_t slot : block_slot) {
      if (slot == block_slot.front()) continue;
      throw std::invalid_argument("block_slot: found the slots " + std::to_string(block_slot.front()) + " and " +
                                  std::to_string(slot) + "; expected one, as this binary does not mix snapshots");
    }
    return block_slot.front();
  }

  std::vector<at::Tensor> call(const std::vector<at::Tensor>& inputs) const {
    try {
      // run() is not const in torch, but is made for concurrent callers.
      return const_cast<torch::inductor::AOTIModelPackageLoader&>(loader_).run(inputs);
    } catch (const c10::Error& error) {
      throw std::runtime_error(error.what_without_backtrace());
    }
  }

  torch::inductor::AOTIModelPackageLoader loader_;
};

}  // namespace

std::shared_ptr<const TemplateBinary> open_aoti_binary(const std::filesystem::path& dir, const std::string& shown,
                                                       BinaryManifest manifest, size_t instances) {
  check_interface(shown, manifest);
  try {
    return std::make_shared<AotiBinary>(dir, shown, std::move(manifest), instances);
  } catch (const Refused&) {
    throw;
  } catch (const c10::Error& error) {
    throw Refused(Reason::kBinary,
                  shown + ": model.pt2 does not load: " + shortened(error.what_without_backtrace(), 500));
  } catch (const std::exception& error) {
    throw Refused(Reason::kBinary, shown + ": model.pt2 does not load: " + shortened(error.what(), 500));
  }
}

void prepare_compute_thread() {
  at::set_num_threads(1);
  at::cpu::init_amx();
}

}  // namespace smt::server
