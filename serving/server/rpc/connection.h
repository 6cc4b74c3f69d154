// One HTTP/2 connection of a client: libnghttp2 on a Socket.
//
// gRPC's own C++ server is not used for the data port for what it does under overload: it reads a message as a whole
// before it can be refused, in the order of arrival over all connections of a thread. Here a call is looked at as soon
// as its scenario's name has arrived, clients that are being refused are told to send no more than that at first (a
// smaller initial window), and connections take turns by 64 KiB.
#pragma once

#include <nghttp2/nghttp2.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "socket.h"
#include "stream.h"

namespace smt::server::rpc {

struct ConnectionLimits {
  size_t message_bytes = 0;  // of one request message
  uint32_t calls = 1;        // at once
};

// The thread that polls the socket calls on_event() and tick(); handlers act from any thread through Stream.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  using Clock = std::chrono::steady_clock;
  // A client that has not said a word of HTTP/2 by then is closed.
  static constexpr std::chrono::seconds kHandshake{20};

  // `methods` and `unsent`, a sum over connections, outlive it. `tls` as for Socket.
  Connection(int fd, SSL_CTX* tls, const Methods& methods, const ConnectionLimits& limits,
             std::atomic<int64_t>& unsent);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection();

  // Registers with epoll, this object as its data. False: it could not.
  bool watch(int epoll);
  int fd() const { return socket_.fd(); }

  // Reads once, sends what there is to send. True: to be called again without waiting for the socket.
  bool on_event(std::span<char> buffer);
  // Now and then.
  void tick(Clock::time_point now);
  // Tells the client to take its next calls elsewhere. Any thread.
  void go_away();
  // Closes, and cancels all calls. Not while another thread polls it.
  void end();
  bool closed() const { return closed_.load(std::memory_order_acquire); }

 private:
  friend class Stream;
  friend struct Callbacks;

  struct Action {
    std::shared_ptr<Stream> stream;
    bool read = false;
    bool grant = false;
    bool finish = false;
    std::optional<std::string> message;  // framed
    grpc::Status status;
    std::chrono::milliseconds retry_after{0};
  };
  // What handlers are told, without the lock.
  enum class What { kOpen, kBegun, kMessage, kEnded, kWritten, kNotWritten, kCancelled, kClosed };
  struct Event {
    std::shared_ptr<Stream> stream;
    What what;
    grpc::ByteBuffer bytes;
    std::string beginning;
  };
  struct FreeSession {
    void operator()(nghttp2_session* session) const { nghttp2_session_del(session); }
  };

  // Any thread.
  void post(Action action);
  // Tells `events`, and what comes of the mail that is there; without recursion, however much of it there is.
  void work(std::vector<Event> events = {});
  bool take_mail(std::vector<Event>& events);
  void tell(Event& event);

  // All of the following require mutex_.
  void begin_http2();
  bool receive(std::span<char> buffer);
  Clock::time_point deadline(std::chrono::nanoseconds timeout);
  void look_at_touched();
  void apply(Action& action);
  void deliver(Stream& stream);
  void consume(Stream& stream, size_t bytes);
  void finish(Stream& stream, grpc::Status status, std::chrono::milliseconds retry_after = {});
  void refuse_http(Stream& stream, const char* status);
  void submit_answer(Stream& stream);
  void submit_trailers(Stream& stream);
  void set_window(bool throttled);
  void flush();
  void want_output(bool on);
  void break_off(std::string why);
  void close();
  void release(Stream& stream);
  void add(Stream& stream, What what, grpc::ByteBuffer bytes = {}, std::string beginning = {});

  const Methods& methods_;
  const ConnectionLimits limits_;
  std::atomic<int64_t>& unsent_;

  std::mutex mail_mutex_;  // guards mail_; taken with and without mutex_, and nothing is taken under it
  std::vector<Action> mail_;

  // Guards all below, and what streams say is the connection's. Whoever holds it applies mail_ after releasing it
  // (take_mail), so a thread that finds it taken may leave its action there and go.
  std::mutex mutex_;
  Socket socket_;
  std::unique_ptr<nghttp2_session, FreeSession> session_;  // null before the handshake and when closed
  std::unordered_map<int32_t, std::shared_ptr<Stream>> streams_;
  std::vector<Stream*> touched_;  // got bytes in this turn
  std::vector<Event> events_;     // to be run once mutex_ is released
  std::string out_;
  size_t out_sent_ = 0;
  int64_t counted_ = 0;  // of unsent_
  int epoll_ = -1;
  bool polls_output_ = false;
  bool throttled_ = false;
  bool settled_ = false;  // the client's settings have arrived
  Clock::time_point last_refusal_{};
  Clock::time_point received_{};            // when the bytes that are being looked at had arrived
  std::optional<Clock::duration> nearest_;  // the least round trip seen
  Clock::time_point look_again_{};          // for a lesser one
  const Clock::time_point since_ = Clock::now();
  // Set under mutex_, once; read without it by the polling thread, which lets go of the connection then.
  std::atomic<bool> closed_{false};
};

}  // namespace smt::server::rpc
