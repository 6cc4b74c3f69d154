// Looks at a call's bytes where they lie.
#pragma once

#include <google/protobuf/arena.h>
#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <string_view>

namespace smt::server {

// What the first bytes of a request for one scenario tell.
struct Beginning {
  std::string_view scenario;  // field 1, if that comes first and is a string; else empty
  int64_t rows = 0;           // field 3, if that comes next or after a string of number 2, and is a number; else 0
};

// Views of the buffer's memory, or of a copy on the arena. Throws std::bad_alloc.
Beginning look_at(const grpc::ByteBuffer& bytes, google::protobuf::Arena& arena);

// All of a message: of the buffer's memory where it lies in one piece there, else of a copy on the arena.
// Throws std::bad_alloc.
std::string_view in_one_piece(const grpc::ByteBuffer& bytes, google::protobuf::Arena& arena);

}  // namespace smt::server
