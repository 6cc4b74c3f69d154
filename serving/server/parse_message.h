// A call's bytes to its message.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include <string>

namespace smt::server {

// Fills `out`. Returns what is wrong with the bytes, empty when nothing is: for text that is not UTF-8 the place, such
// as "candidates[3] 'city'.strings.values[7]", and the text itself. `out` holds nothing of use then.
std::string parse_message(const grpc::ByteBuffer& bytes, google::protobuf::Message& out);

}  // namespace smt::server
