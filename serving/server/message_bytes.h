// Looks at a call's bytes where they lie.
#pragma once

#include <google/protobuf/arena.h>
#include <grpcpp/support/byte_buffer.h>

#include <string_view>

namespace smt::server {

// The first field of a message, if it is a string with number 1, as scenario and model names are where they are alone;
// empty when it is not. A view of the buffer's memory, or of a copy on the arena. Throws std::bad_alloc.
std::string_view first_text(const grpc::ByteBuffer& bytes, google::protobuf::Arena& arena);

// All of a message: of the buffer's memory where it lies in one piece there, else of a copy on the arena.
// Throws std::bad_alloc.
std::string_view in_one_piece(const grpc::ByteBuffer& bytes, google::protobuf::Arena& arena);

}  // namespace smt::server
