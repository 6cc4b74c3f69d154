#include "safetensors.h"

#include <algorithm>
#include <string_view>

#include "json_fields.h"
#include "names.h"
#include "refusal.h"

namespace smt::server {
namespace {

constexpr int64_t kMaxDimension = int64_t{1} << 48;

uint64_t dtype_bytes(std::string_view dtype) {
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "I8" || dtype == "U8" || dtype == "BOOL" || dtype == "F8_E5M2" || dtype == "F8_E4M3") return 1;
  return 0;
}

std::vector<int64_t> integers(const Fields& tensor, const std::string& key, size_t max_size) {
  const nlohmann::json& list = tensor.array(key, max_size);
  std::vector<int64_t> out;
  for (size_t i = 0; i < list.size(); ++i) {
    bool good = list[i].is_number_unsigned() && list[i].get<uint64_t>() <= static_cast<uint64_t>(kMaxDimension);
    if (!good)
      tensor.fail(key + "[" + std::to_string(i) + "]", &list[i], "an integer 0.." + std::to_string(kMaxDimension));
    out.push_back(list[i].get<int64_t>());
  }
  return out;
}

TensorInfo parse_tensor(const std::string& name, const nlohmann::json& value, uint64_t data_bytes,
                        const std::string& file) {
  Fields fields(value, file, name);
  TensorInfo tensor{.name = name, .dtype = fields.text("dtype", 16), .shape = integers(fields, "shape", 8)};
  uint64_t wanted = dtype_bytes(tensor.dtype);
  if (wanted == 0) fields.fail("dtype", &fields.value("dtype"), "F64, F32, F16, BF16, an integer type or BOOL");
  for (int64_t dimension : tensor.shape) {
    if (__builtin_mul_overflow(wanted, static_cast<uint64_t>(dimension), &wanted)) {
      fields.fail("shape", &fields.value("shape"), "a tensor of fewer than 2^64 bytes");
    }
  }
  std::vector<int64_t> offsets = integers(fields, "data_offsets", 2);
  if (offsets.size() != 2 || offsets[0] > offsets[1] || static_cast<uint64_t>(offsets[1]) > data_bytes) {
    fields.fail("data_offsets", &fields.value("data_offsets"),
                "[begin, end] with begin <= end <= " + std::to_string(data_bytes) + ", the bytes of data in the file");
  }
  tensor.begin = static_cast<uint64_t>(offsets[0]);
  tensor.end = static_cast<uint64_t>(offsets[1]);
  if (tensor.end - tensor.begin != wanted) {
    fields.fail("data_offsets", &fields.value("data_offsets"),
                std::to_string(wanted) + " bytes, as dtype and shape say (found " +
                    std::to_string(tensor.end - tensor.begin) + ")");
  }
  return tensor;
}

}  // namespace

uint64_t safetensors_header_bytes(std::span<const std::byte> prefix, uint64_t file_bytes, const std::string& file) {
  if (prefix.size() < kSafetensorsPrefix || file_bytes < kSafetensorsPrefix) {
    throw Refused(Reason::kWeights, file + ": " + std::to_string(std::min<uint64_t>(prefix.size(), file_bytes)) +
                                        " bytes; expected at least 8, the length of the safetensors header");
  }
  uint64_t length = 0;
  for (size_t i = 0; i < kSafetensorsPrefix; ++i) length |= std::to_integer<uint64_t>(prefix[i]) << (8 * i);
  uint64_t limit = std::min(file_bytes - kSafetensorsPrefix, kMaxSafetensorsHeader);
  if (length < 2 || length > limit) {
    throw Refused(Reason::kWeights, file + ": the safetensors header's length is " + std::to_string(length) +
                                        "; expected 2.." + std::to_string(limit));
  }
  return length;
}

SafetensorsHeader parse_safetensors(std::span<const std::byte> head, uint64_t file_bytes, const std::string& file) {
  uint64_t length = safetensors_header_bytes(head, file_bytes, file);
  if (head.size() - kSafetensorsPrefix < length) {
    throw Refused(Reason::kWeights, file + ": the safetensors header ends after " + std::to_string(head.size()) +
                                        " bytes; expected " + std::to_string(kSafetensorsPrefix + length));
  }
  std::string_view json(reinterpret_cast<const char*>(head.data()) + kSafetensorsPrefix, length);
  SafetensorsHeader header{.data_start = kSafetensorsPrefix + length, .tensors = {}};
  uint64_t data_bytes = file_bytes - header.data_start;
  try {
    nlohmann::json parsed = parse_json(json, file);
    Fields(parsed, file);  // refuses anything but an object
    for (const auto& [name, value] : parsed.items()) {
      if (name != "__metadata__") header.tensors.push_back(parse_tensor(name, value, data_bytes, file));
    }
  } catch (const Refused& error) {
    throw Refused(Reason::kWeights, error.what());
  }
  auto before = [](const TensorInfo& a, const TensorInfo& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  };
  std::sort(header.tensors.begin(), header.tensors.end(), before);
  uint64_t covered = 0;
  for (const TensorInfo& tensor : header.tensors) {
    if (tensor.begin != covered) {
      throw Refused(Reason::kWeights, file + ": tensor " + quote(tensor.name) + " begins at data byte " +
                                          std::to_string(tensor.begin) + "; expected " + std::to_string(covered) +
                                          ", where the one before it ends");
    }
    covered = tensor.end;
  }
  if (covered != data_bytes) {
    throw Refused(Reason::kWeights, file + ": tensors hold " + std::to_string(covered) + " bytes; expected " +
                                        std::to_string(data_bytes) + ", the data in the file");
  }
  return header;
}

}  // namespace smt::server
