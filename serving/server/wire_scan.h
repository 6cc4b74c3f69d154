// A look at a request's bytes before they are parsed.
//
// Two bytes on the wire (an empty string, an empty Feature) become up to a hundred in memory. A message within
// --max-message-bytes could so take gigabytes; counting first costs a few nanoseconds per field and no memory.
#pragma once

#include <google/protobuf/io/zero_copy_stream.h>

#include <cstdint>
#include <string>

namespace smt::server {

struct WireLimits {
  int64_t features = 0;  // of context and candidates together; inputs of a ModelInferRequest
  int64_t fields = 0;    // of all kinds; a string of a list is one, a packed list of numbers is one as a whole
};

// The limits of a server that takes `max_rows` candidates. GetServer reports `fields` as max_fields.
WireLimits wire_limits(int64_t max_rows);

// The requests that are scanned.
enum class RequestKind { kPredict, kMultiPredict, kModelInfer };

// What is wrong with the message; empty when it is within the limits and well-formed as far as was looked: the parser
// still has to judge what is inside. Groups, which our protocols do not have and in which fields could hide, are
// refused.
std::string scan_request(google::protobuf::io::ZeroCopyInputStream& message, RequestKind kind,
                         const WireLimits& limits);

}  // namespace smt::server
