// What memory a version holds, told so that what several hold is counted once.
#pragma once

#include <cstdint>
#include <vector>

namespace smt::server {

// Memory that several versions may hold: `owner` is the same for all of them, and only compared.
struct SharedBytes {
  const void* owner = nullptr;
  int64_t bytes = 0;
};

struct HeldBytes {
  int64_t own = 0;
  std::vector<SharedBytes> shared;

  int64_t total() const {
    int64_t sum = own;
    for (const SharedBytes& each : shared) sum += each.bytes;
    return sum;
  }
};

}  // namespace smt::server
