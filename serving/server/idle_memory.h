// Gives the memory of a burst back to the system once the burst is over.
//
// malloc keeps what calls have freed, in one arena per thread that ever allocated; after a burst of large requests that
// is several times what the server needs. Requests do not pay for the return: it happens on another thread, and only
// while none is inside.
#pragma once

#include <cstdint>

namespace smt::server {

// Use from one thread.
class IdleMemory {
 public:
  // Growth of the process's resident memory that is worth a look at malloc's arenas.
  static constexpr int64_t kWorthwhile = int64_t{64} << 20;

  IdleMemory();

  // To be called regularly. `idle`: no request is inside now. When that was so at the last call too, and the resident
  // memory grew by kWorthwhile since the last return, returns what malloc holds unused. True: it did.
  bool look(bool idle);

 private:
  bool was_idle_ = false;
  int64_t lowest_;  // resident bytes after the last return, or less if it has fallen since
};

// Of this process; 0 where /proc does not tell.
int64_t resident_bytes();

}  // namespace smt::server
