// Where a request's messages live.
#pragma once

#include <google/protobuf/arena.h>

#include <cstddef>

namespace smt::server {

// Options of an arena for a message of `request_bytes`. Small blocks come from malloc; the largest, which only large
// requests have, are mappings of their own: their memory goes back to the system with the request, while malloc would
// keep the most that any burst ever needed.
google::protobuf::ArenaOptions request_arena(size_t request_bytes);

}  // namespace smt::server
