// One call, from when it was meant to be sent until its connection has forgotten it.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "clock.h"
#include "outcome.h"
#include "payloads.h"

namespace smt::loadgen {

class Connection;

struct Call {
  uint64_t number = 0;  // of this use of the object; 0: not in use
  uint32_t source = 0;
  uint32_t stream = 0;
  bool closed = false;    // of a closed source: its end lets a caller call again
  Nanos intended = 0;     // open sources: as scheduled; closed: when the caller called
  Nanos deadline = 0;     // counted from `intended`; 0: none
  Nanos sent = 0;         // when its first bytes went to the socket; 0: it still waits in the client
  bool retried = false;   // refused by a connection that was ending, and sent again on another
  bool finished = false;  // its outcome is known; the connection may still point to it

  const Payload* payload = nullptr;
  uint32_t payload_sent = 0;

  // The connection's.
  Connection* connection = nullptr;
  size_t slot = 0;  // where it stands in the connection's list
  int32_t stream_id = 0;
  int http_status = 0;
  int grpc_status = -1;   // -1: none seen
  uint64_t received = 0;  // bytes of the answer's DATA frames
  Nanos waited = 0;       // the answer, whole, before it was read
  std::array<uint8_t, 5> prefix{};
  bool keep_answer = false;
  std::string answer;  // the message, if it is to be kept

  // Whether the answer is one message, and as long as its prefix says.
  bool whole_message() const {
    uint32_t size = 0;
    for (size_t i = 1; i < prefix.size(); ++i) size = size << 8 | prefix[i];
    return received >= prefix.size() && received - prefix.size() == size;
  }
  uint64_t message_bytes() const { return received < prefix.size() ? 0 : received - prefix.size(); }
};

// Calls whose addresses stay the same. Not thread-safe.
class CallPool {
 public:
  Call& take() {
    if (free_.empty()) free_.push_back(&calls_.emplace_back());
    Call* call = free_.back();
    free_.pop_back();
    *call = Call{};
    call->number = ++taken_;
    return *call;
  }
  void give_back(Call& call) {
    call.number = 0;
    free_.push_back(&call);
  }
  // Every call in use.
  template <typename Visit>
  void for_each(Visit visit) {
    for (Call& call : calls_) {
      if (call.number != 0) visit(call);
    }
  }

 private:
  std::deque<Call> calls_;
  std::vector<Call*> free_;
  uint64_t taken_ = 0;
};

}  // namespace smt::loadgen
