// Time, as the load generator counts it.
#pragma once

#include <time.h>

#include <cstdint>

namespace smt::loadgen {

using Nanos = int64_t;  // a moment of CLOCK_MONOTONIC, or a span
inline constexpr Nanos kSecond = 1'000'000'000;

inline Nanos now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kSecond + now.tv_nsec;
}

inline timespec to_timespec(Nanos span) { return {span / kSecond, span % kSecond}; }

}  // namespace smt::loadgen
