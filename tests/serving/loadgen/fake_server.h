// An HTTP/2 server that answers each path in its own way, also in ways in which no gRPC server does.
//
//   /ok         a message of four bytes, OK                /split      the same, a byte at a time
//   /status     NOT_FOUND, in headers alone                /early      RESOURCE_EXHAUSTED before the request is whole
//   /early-end  the same, and the stream is reset at once, as RFC 9113 wants it
//   /empty      OK without a message                       /short      OK, and less of a message than its prefix says
//   /no-status  a message without trailers                 /http       HTTP status 503
//   /reset      the stream is reset                        /refuse     the stream is refused, but the first time only
//   /goaway     the connection ends before this stream, but the first time only
//   /hang-up    the connection breaks                      /silent     nothing
//   /late       a message, OK, when twice its grpc-timeout has passed; meanwhile nobody else is answered either
#pragma once

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace smt::loadgen {

// Listens on 127.0.0.1 until it is destroyed, all connections on one thread.
class FakeServer {
 public:
  // `most_streams`: of a connection, at once.
  explicit FakeServer(uint32_t most_streams = 1000);
  FakeServer(const FakeServer&) = delete;
  FakeServer& operator=(const FakeServer&) = delete;
  ~FakeServer();

  std::string target() const { return "127.0.0.1:" + std::to_string(port_); }
  // After stop(): whole requests by path, and bytes of all their messages with the prefixes.
  const std::map<std::string, int>& requests() const { return requests_; }
  size_t message_bytes() const { return message_bytes_; }
  // After stop(): streams that the client reset.
  int resets() const { return resets_; }
  // After stop(): the grpc-timeout of requests by path, in microseconds, in the order in which they came.
  const std::map<std::string, std::vector<int64_t>>& timeouts_us() const { return timeouts_us_; }
  void stop();

 private:
  friend struct FakeConnection;
  void serve();

  const uint32_t most_streams_;
  int listener_ = -1;
  int wake_ = -1;
  int port_ = 0;
  bool refused_ = false;
  bool said_goodbye_ = false;
  std::map<std::string, int> requests_;
  size_t message_bytes_ = 0;
  int resets_ = 0;
  std::map<std::string, std::vector<int64_t>> timeouts_us_;
  std::thread thread_;
};

}  // namespace smt::loadgen
