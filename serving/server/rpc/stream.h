// A gRPC call as its server sees it: one stream of an HTTP/2 connection, and what handles it.
#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

#include "framing.h"

namespace smt::server::rpc {

class Connection;
class Stream;

// Handles one call. message(), ended() and written() come one after the other; cancelled() may come at any time, from
// another thread. None of them may block: other calls of other clients wait meanwhile.
class Handler {
 public:
  virtual ~Handler() = default;
  // Of a unary method, when its message is long under way: the first bytes of it. True: the call is answered already,
  // and needs no more of them.
  virtual bool begun(std::string_view /*beginning*/) { return false; }
  // Unary: the message. Streaming: the next one, after each Stream::read().
  virtual void message(grpc::ByteBuffer bytes) = 0;
  // Streaming: instead of message(), the client sends no more.
  virtual void ended() {}
  // Streaming: what was handed to Stream::write() is on its way, or (not `sent`) will never be.
  virtual void written(bool /*sent*/) {}
  // The client went away, or does not want the answer any more. Never after Stream::finish() took effect.
  virtual void cancelled() {}
};

struct Method {
  bool streaming = false;
  // Streaming: called when the call begins; unary: when its message does. The handler lives at least until the stream
  // is closed.
  std::function<std::shared_ptr<Handler>(const std::shared_ptr<Stream>&)> open;
};
// By path, "/package.Service/Method".
using Methods = std::unordered_map<std::string, Method>;

// Thread-safe where it says so; all else is the connection's, and guarded by its mutex.
class Stream : public std::enable_shared_from_this<Stream> {
 public:
  using Clock = std::chrono::steady_clock;

  Stream(std::shared_ptr<Connection> connection, int32_t id, size_t most_bytes)
      : connection_(std::move(connection)), id_(id), reader_(most_bytes) {}

  // What the client said at the beginning; does not change while there is a handler. The deadline is when the answer
  // has to be on its way: less by the least round trip than what the client counts from when it sends.
  Clock::time_point deadline() const { return deadline_; }
  const std::string& trace_parent() const { return trace_parent_; }
  // Bytes of the first message, as announced.
  size_t message_bytes() const { return message_bytes_; }

  // Thread-safe; none waits for the client. After finish(), and when the stream is closed, they do nothing, but that
  // written() says so.
  void read();  // streaming: message() or ended() follows
  // `framed`: the message behind its message_prefix().
  void write(std::string framed);  // streaming: written() follows, to be awaited before the next
  void finish(grpc::Status status, std::chrono::milliseconds retry_after = {});
  void reply(std::string framed);  // write() and finish(OK) at once

 private:
  friend class Connection;
  friend struct Callbacks;

  const std::shared_ptr<Connection> connection_;
  const int32_t id_;

  // Request.
  const Method* method_ = nullptr;
  std::string path_;
  std::string http_method_;
  std::string content_type_;
  std::string trace_parent_;
  Clock::time_point deadline_ = Clock::time_point::max();
  bool bad_encoding_ = false;
  MessageReader reader_;
  size_t message_bytes_ = 0;
  std::deque<grpc::ByteBuffer> ready_;  // whole and not delivered
  bool wanted_ = false;                 // the handler waits for a message
  bool begun_ = false;                  // Handler::begun() has been called, or need not be
  bool delivered_ = false;              // unary: message()
  bool touched_ = false;                // on the connection's list
  bool ended_ = false;                  // the client sends no more
  bool told_end_ = false;               // and the handler knows
  bool granted_ = true;                 // the client may send as much as a window holds
  size_t unconsumed_ = 0;               // bytes that the stream's window has not been given back for

  // Answer.
  std::deque<std::string> out_;
  size_t out_sent_ = 0;    // of the first
  bool answered_ = false;  // the response's headers are submitted
  bool finished_ = false;  // finish() took effect
  bool closed_ = false;
  grpc::Status status_;
  std::chrono::milliseconds retry_after_{0};

  mutable std::mutex handler_mutex_;  // guards handler_; held for no call of it
  std::shared_ptr<Handler> handler_;
};

}  // namespace smt::server::rpc
