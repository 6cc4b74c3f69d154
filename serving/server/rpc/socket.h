// A connection that was accepted: a non-blocking socket, plain or with TLS.
#pragma once

#include <openssl/ssl.h>
#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>

namespace smt::server::rpc {

// Not thread-safe.
class Socket {
 public:
  // What an operation came to: bytes moved, or none of them for one of these reasons.
  static constexpr ssize_t kBlocked = 0;
  static constexpr ssize_t kClosed = -1;  // for good; error() says why

  // Owns `fd`, which does not block. `tls` null: plain; else its count of references is raised.
  Socket(int fd, SSL_CTX* tls);
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket();

  int fd() const { return fd_; }
  // Goes on with the handshake: 1 when done. With TLS the client has to choose HTTP/2 (ALPN h2).
  ssize_t handshake();
  ssize_t read(char* into, size_t size);
  // How long the newest of the bytes that read() returned last had lain in the system's buffer. With TLS, whose library
  // does the reading, nobody knows: 0.
  std::chrono::nanoseconds waited() const { return waited_; }
  // The least time that anything took to the client and back, by what the system has seen of this connection in the
  // last minutes; none if it does not know.
  std::optional<std::chrono::microseconds> round_trip() const;
  ssize_t write(const char* data, size_t size);
  // Bytes were read from the kernel that read() has not returned yet.
  bool holds_bytes() const { return tls_ && SSL_has_pending(tls_.get()) != 0; }
  // What it was last blocked by is that the socket takes no more (also while the handshake is under way).
  bool wants_output() const { return tls_ && SSL_want_write(tls_.get()) != 0; }
  // Both directions, which wakes whoever polls it. The number of the descriptor stays taken.
  void shut_down();
  const std::string& error() const { return error_; }

 private:
  struct FreeSession {
    void operator()(SSL* session) const { SSL_free(session); }
  };

  ssize_t closed(std::string why);
  ssize_t tls_result(int result, const char* what);

  const int fd_;
  std::unique_ptr<SSL, FreeSession> tls_;
  std::chrono::nanoseconds waited_{0};
  std::string error_;
};

}  // namespace smt::server::rpc
