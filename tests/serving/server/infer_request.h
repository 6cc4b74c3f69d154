// Requests of the Open Inference Protocol, made tensor by tensor.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "inference/grpc_service.pb.h"

namespace smt::server {

// The raw form of values: little-endian without padding; of text, each value's length as 4 bytes, then the value.
template <class T>
std::string raw_values(const std::vector<T>& values) {
  std::string out;
  auto append = [&](const auto& value) { out.append(reinterpret_cast<const char*>(&value), sizeof value); };
  for (const auto& value : values) {
    if constexpr (std::is_same_v<T, std::string>) {
      append(static_cast<uint32_t>(value.size()));
      out += value;
    } else {
      append(static_cast<T>(value));
    }
  }
  return out;
}

inline inference::ModelInferRequest::InferInputTensor& add_input(inference::ModelInferRequest& request,
                                                                 const std::string& name, const std::string& datatype,
                                                                 const std::vector<int64_t>& shape) {
  auto& input = *request.add_inputs();
  input.set_name(name);
  input.set_datatype(datatype);
  for (const int64_t size : shape) input.add_shape(size);
  return input;
}

inline void add_raw(inference::ModelInferRequest& request, const std::string& name, const std::string& datatype,
                    const std::vector<int64_t>& shape, const std::string& bytes) {
  add_input(request, name, datatype, shape);
  request.add_raw_input_contents(bytes);
}

// Values in the field of `contents` that their type has.
template <class T>
void add_typed(inference::ModelInferRequest& request, const std::string& name, const std::string& datatype,
               const std::vector<int64_t>& shape, const std::vector<T>& values) {
  auto& contents = *add_input(request, name, datatype, shape).mutable_contents();
  for (const auto& value : values) {
    if constexpr (std::is_same_v<T, std::string>) {
      contents.add_bytes_contents(value);
    } else if constexpr (std::is_same_v<T, bool>) {
      contents.add_bool_contents(value);
    } else if constexpr (std::is_same_v<T, float>) {
      contents.add_fp32_contents(value);
    } else if constexpr (std::is_same_v<T, double>) {
      contents.add_fp64_contents(value);
    } else if constexpr (std::is_same_v<T, int64_t>) {
      contents.add_int64_contents(value);
    } else if constexpr (std::is_same_v<T, uint64_t>) {
      contents.add_uint64_contents(value);
    } else if constexpr (std::is_signed_v<T>) {
      contents.add_int_contents(value);
    } else {
      contents.add_uint_contents(value);
    }
  }
}

}  // namespace smt::server
