// Memory of the test's process.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <fstream>

namespace smt::server {

// Bytes in RAM; 0 if /proc does not say.
inline int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0;
  int64_t resident = 0;
  if (!(statm >> total >> resident)) return 0;
  return resident * sysconf(_SC_PAGESIZE);
}

}  // namespace smt::server
