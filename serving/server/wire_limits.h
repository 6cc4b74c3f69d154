// How much one request may hold.
//
// Two bytes on the wire (an empty string, an empty Feature) become up to a hundred in memory. A message within
// --max-message-bytes could so take gigabytes; counting while or before it is read bounds that.
#pragma once

#include <cstdint>
#include <string>

namespace smt::server {

struct WireLimits {
  int64_t features = 0;  // of context and candidates together; inputs of a ModelInferRequest
  int64_t fields = 0;    // of all kinds; a string of a list is one, a packed list of numbers is one as a whole
};

// The limits of a server that takes `max_rows` candidates. GetServer reports `fields` as max_fields.
WireLimits wire_limits(int64_t max_rows);

// What the client is told of a message beyond them. `where`: the fields that hold the features.
std::string too_many_fields(const WireLimits& limits);
std::string too_many_features(const WireLimits& limits, const std::string& where);

}  // namespace smt::server
