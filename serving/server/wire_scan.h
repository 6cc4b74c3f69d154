// A look at a ModelInferRequest's bytes before they are parsed: counting what is in it costs a few nanoseconds per
// field and no memory.
#pragma once

#include <google/protobuf/io/zero_copy_stream.h>

#include <string>

#include "wire_limits.h"

namespace smt::server {

// What is wrong with the message; empty when it is within the limits and well-formed as far as was looked: the parser
// still has to judge what is inside. Groups, which our protocols do not have and in which fields could hide, are
// refused.
std::string scan_infer_request(google::protobuf::io::ZeroCopyInputStream& message, const WireLimits& limits);

}  // namespace smt::server
