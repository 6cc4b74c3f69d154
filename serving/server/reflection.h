// gRPC server reflection, v1 and v1alpha: what grpcurl and the like ask a server for.
#pragma once

#include <string>
#include <vector>

#include "rpc/stream.h"

namespace smt::server {

// Tells of `services` (full names), and of all messages of this process.
void add_reflection(rpc::Methods& methods, std::vector<std::string> services);

}  // namespace smt::server
