// Splits the rows of one call over threads, for offline scoring and benchmarks. A server does not: there, each call has
// one thread, and the server scales by workers.
#pragma once

#include <cstdint>
#include <functional>

namespace smt::cpu {

// Calls body(first, last) for `threads` nearly equal parts of [0, rows), one of them on the calling thread, and returns
// when all are done. The first exception of a part is thrown again. One call at a time has helpers; others that come
// meanwhile, and all calls of a forked process whose parent had some, run on their own thread alone.
void split_rows(int64_t rows, int64_t threads, const std::function<void(int64_t, int64_t)>& body);

}  // namespace smt::cpu
