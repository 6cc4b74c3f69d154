#include "idle_memory.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "log.h"

namespace smt::server {

int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0;
  int64_t resident = 0;
  if (!(statm >> total >> resident)) return 0;
  return resident * sysconf(_SC_PAGESIZE);
}

IdleMemory::IdleMemory() : lowest_(resident_bytes()) {}

bool IdleMemory::look(bool idle) {
  if (!idle || !was_idle_) {
    was_idle_ = idle;
    return false;
  }
  int64_t before = resident_bytes();
  lowest_ = std::min(lowest_, before);
  if (before - lowest_ < kWorthwhile) return false;
  malloc_trim(0);
  lowest_ = resident_bytes();
  log::info("memory_returned", {{"resident_before", before}, {"resident_after", lowest_}});
  return true;
}

}  // namespace smt::server
