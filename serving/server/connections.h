// The process's own TCP connections, as the kernel sees them.
#pragma once

#include <cstdint>

namespace smt::server {

// Bytes written to connections whose local port is `port` that their peers' kernels have not acknowledged. Closing a
// connection while this is not 0 may lose them: answers that were written, but never arrived.
int64_t unacknowledged_bytes(int port);

}  // namespace smt::server
