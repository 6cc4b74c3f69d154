// SIGTERM and SIGINT: the first asks for a drain, unless something else has, the second ends the process at once.
#pragma once

#include <stop_token>

namespace smt::server {

// Call in main() before any other thread exists, so that all of them inherit the blocked signals. The first signal
// requests the stop; the second one exits with 128 + its number. SIGPIPE is ignored.
std::stop_source watch_signals();

}  // namespace smt::server
