// A non-blocking TCP connection, plain or with TLS.
#pragma once

#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include "plan.h"

namespace smt::loadgen {

// A resolved "host:port".
struct Address {
  std::string name;  // as given; the :authority of calls
  std::string host;
  sockaddr_storage socket{};
  socklen_t length = 0;
};
// Throws PlanError.
Address resolve(const std::string& target);

struct FreeContext {
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
using TlsContext = std::unique_ptr<SSL_CTX, FreeContext>;
// Verifies servers by plan.tls.ca, offers plan.tls.cert. Throws PlanError that names the file. Null without TLS.
TlsContext make_tls(const Plan& plan);

// Not thread-safe.
class Transport {
 public:
  // What an operation came to: bytes moved, or none of them for one of these reasons.
  static constexpr ssize_t kBlocked = 0;
  static constexpr ssize_t kClosed = -1;  // for good; error() says why

  // Begins to connect. `tls` null: plain; `server_name`: whom the certificate must name.
  Transport(const Address& address, SSL_CTX* tls, const std::string& server_name);
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;
  ~Transport();

  int fd() const { return fd_; }
  // Goes on with connecting and the handshake: 1 when done, kBlocked or kClosed.
  ssize_t handshake();
  ssize_t read(char* into, size_t size);
  // How long the newest of the bytes that read() returned last had been there. With TLS, whose library reads: 0.
  Nanos waited() const { return waited_.count(); }
  // Writes some of the parts, in order.
  ssize_t write(const iovec* parts, int count);
  // The peer sees the connection break, not end.
  void reset();
  const std::string& error() const { return error_; }

 private:
  struct FreeSession {
    void operator()(SSL* session) const { SSL_free(session); }
  };

  ssize_t closed(std::string why);
  ssize_t closed_by_system();
  ssize_t tls_result(int result, const char* what);

  int fd_ = -1;
  bool connected_ = false;
  std::chrono::nanoseconds waited_{0};
  std::unique_ptr<SSL, FreeSession> tls_;
  std::string error_;
};

}  // namespace smt::loadgen
