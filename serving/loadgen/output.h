// Bytes on their way to a socket: HTTP/2 frames are copied, payloads only pointed to, and all that has gathered is
// handed over in as few system calls as possible.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "transport.h"

namespace smt::loadgen {

// Not thread-safe.
class Output {
 public:
  // Copies the bytes.
  void copy(const char* data, size_t size);
  // Points to the bytes, which must stay as they are until the run ends.
  void refer(const char* data, size_t size);

  size_t pending() const { return pending_; }
  // Writes until nothing is left (1), or the transport is blocked or closed (as it says).
  ssize_t flush(Transport& transport);

 private:
  struct Part {
    const char* data;  // null: at `offset` of copied_
    size_t offset;
    size_t size;
  };

  std::string copied_;
  std::vector<Part> parts_;
  size_t first_ = 0;  // part that is written next
  size_t pending_ = 0;
};

}  // namespace smt::loadgen
