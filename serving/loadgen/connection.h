// One HTTP/2 connection that carries gRPC calls: libnghttp2 on a Transport.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "call.h"
#include "output.h"
#include "transport.h"

namespace smt::loadgen {

// What a connection tells of its calls. Called from within on_event(), flush() and close(); may submit calls.
class CallEvents {
 public:
  virtual ~CallEvents() = default;
  // The call's outcome is known: at most once per call, and never after cancel().
  virtual void finished(Call& call, Outcome outcome) = 0;
  // The server has not seen the call, or has not looked at it and will not: it may be sent again elsewhere. Instead of
  // finished().
  virtual void refused(Call& call) = 0;
  // The connection no longer points to the call: exactly once per submitted call that was not refused.
  virtual void released(Call& call) = 0;
};

// Not thread-safe. Neither copied nor moved: epoll and nghttp2 point to it.
class Connection {
 public:
  // Begins to connect, and registers itself with epoll (edge-triggered, this object as its data).
  Connection(const Address& address, SSL_CTX* tls, const std::string& server_name, int epoll, CallEvents& events);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection();

  // The server's settings have arrived and it has not said goodbye: takes calls.
  bool ready() const { return state_ == State::kReady; }
  bool closed() const { return state_ == State::kClosed; }
  // The server said that it takes no more calls; those under way go on.
  bool draining() const { return state_ == State::kDraining; }
  size_t outstanding() const { return calls_.size(); }
  // Whether it has ever been ready.
  bool lived() const { return lived_; }
  // Why it closed.
  const std::string& error() const { return error_; }

  // Sends a call as soon as the server allows another stream and what was to be sent before it is on its way; until
  // then it waits here, where its deadline still finds it. `headers`: the pseudo-headers but :authority, which is added
  // as grpc-timeout is, and all others; they must live as long as the connection. Only when ready().
  void submit(Call& call, std::span<const nghttp2_nv> headers);
  // Gives a call up, and resets its stream if it was sent. Its outcome is known already.
  void cancel(Call& call);

  void on_event(std::span<char> buffer);
  // Sends what is there to send. Cheap when there is nothing.
  void flush();
  // Ends all calls and closes. `abruptly`: the server sees the connection break.
  void close(const std::string& why, bool abruptly = false);

  uint64_t bytes_in() const { return bytes_in_; }
  uint64_t bytes_out() const { return bytes_out_; }

 private:
  enum class State { kConnecting, kSettings, kReady, kDraining, kClosed };
  struct FreeSession {
    void operator()(nghttp2_session* session) const { nghttp2_session_del(session); }
  };
  struct Callbacks;  // nghttp2's
  struct Waiting {
    Call* call;
    std::span<const nghttp2_nv> headers;
  };

  void begin_http2();
  void send_waiting();
  void send(const Waiting& waiting, Nanos now);
  void hand_back_waiting();
  void finish(Call& call);
  void give_up_answered();
  void forget(Call& call);

  const Address& address_;
  CallEvents& events_;
  Transport transport_;
  State state_ = State::kConnecting;
  bool lived_ = false;
  std::unique_ptr<nghttp2_session, FreeSession> session_;
  Output output_;
  std::vector<Call*> calls_;         // submitted and not released
  std::deque<Waiting> waiting_;      // those of them that are not sent, in the order in which they came
  std::vector<int32_t> early_;       // streams answered in this turn, whose request is not sent as a whole
  std::vector<nghttp2_nv> headers_;  // of the call being sent
  std::string error_;
  uint64_t bytes_in_ = 0;
  uint64_t bytes_out_ = 0;
};

}  // namespace smt::loadgen
