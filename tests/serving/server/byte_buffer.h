// Bytes as a call's: in slices.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <string>
#include <vector>

namespace smt::server {

inline grpc::ByteBuffer in_slices(const std::string& bytes, size_t slice) {
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size(); at += slice) slices.emplace_back(bytes.substr(at, slice));
  return {slices.data(), slices.size()};
}

}  // namespace smt::server
