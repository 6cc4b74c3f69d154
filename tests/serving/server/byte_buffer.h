// Bytes as a call's: in slices.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <string>
#include <vector>

#include "rpc/framing.h"

namespace smt::server {

inline grpc::ByteBuffer in_slices(const std::string& bytes, size_t slice) {
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size(); at += slice) slices.emplace_back(bytes.substr(at, slice));
  return {slices.data(), slices.size()};
}

inline std::string text_of(const grpc::ByteBuffer& buffer) {
  std::string out;
  std::vector<grpc::Slice> slices;
  static_cast<void>(buffer.Dump(&slices));  // fails for an invalid buffer alone, which holds nothing
  for (const grpc::Slice& slice : slices) out.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return out;
}

// As such a message lies on a stream of the data port.
inline std::string framed(const std::string& message) { return rpc::message_prefix(message.size()) + message; }

}  // namespace smt::server
