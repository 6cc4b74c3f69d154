// Where a request's messages live.
#pragma once

#include <google/protobuf/arena.h>

#include <cstddef>

namespace smt::server {

// Options of an arena for a message of `request_bytes`. Blocks come from the allocator, which keeps what large requests
// need for the next ones, and gives it back once there are none: to get such a block from the system costs more, in
// page faults, than to read all that it holds.
google::protobuf::ArenaOptions request_arena(size_t request_bytes);

}  // namespace smt::server
