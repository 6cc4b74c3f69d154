// SIGTERM and SIGINT: the first asks for a drain, the second ends the process at once.
#pragma once

#include <stop_token>

namespace smt::server {

// Call in main() before any other thread exists, so that all of them inherit the blocked signals. The token is stopped
// by the first signal; the second one exits with 128 + its number. SIGPIPE is ignored.
std::stop_token watch_signals();

}  // namespace smt::server
