// Header of a safetensors file (8 bytes length, JSON, data): https://github.com/huggingface/safetensors#format
//
// The parser trusts nothing: every length, offset, shape and type is checked against the size of the file, with
// arithmetic that cannot overflow, and the tensors must tile the data section without gap or overlap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace smt::server {

inline constexpr uint64_t kSafetensorsPrefix = 8;
inline constexpr uint64_t kMaxSafetensorsHeader = uint64_t{16} << 20;

struct TensorInfo {
  std::string name;
  std::string dtype;  // as in the file: "F32", "BF16", ...
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // in bytes from the start of the data section
  uint64_t end = 0;
};

struct SafetensorsHeader {
  uint64_t data_start = 0;          // in bytes from the start of the file
  std::vector<TensorInfo> tensors;  // in order of `begin`; they cover [data_start, file size)
};

// Length of the JSON header, from the file's first 8 bytes. Throws Refused(kWeights).
uint64_t safetensors_header_bytes(std::span<const std::byte> prefix, uint64_t file_bytes, const std::string& file);

// `head`: the file's first 8 + header_bytes bytes (more is ignored). Throws Refused(kWeights).
SafetensorsHeader parse_safetensors(std::span<const std::byte> head, uint64_t file_bytes, const std::string& file);

}  // namespace smt::server
