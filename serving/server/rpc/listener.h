// The data port: accepts connections, and spreads them over threads.
#pragma once

#include <openssl/ssl.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "connection.h"
#include "io_thread.h"

namespace smt::server::rpc {

// The context of a connection that begins now; null: no TLS.
using TlsSource = std::function<std::shared_ptr<SSL_CTX>()>;

// Use from one thread: construct, start().
class Listener {
 public:
  struct Address {
    std::string flag;  // "--port", for messages
    std::string host;  // numeric
    int port = 0;      // 0: the system picks
  };

  // Binds, but does not accept yet; throws std::runtime_error that names flag, address and reason. `methods` is not
  // changed from start() on, and outlives the listener. `hooks` are called on each of the threads.
  Listener(const Address& address, size_t threads, const Methods& methods, const ConnectionLimits& limits,
           TlsSource tls, TurnHooks hooks);
  // Closes all connections; the handlers of their calls are told.
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  int port() const { return port_; }
  void start();
  // Tells all clients to take their next calls elsewhere; those that they send all the same are handled.
  void go_away();
  // Bytes of answers that the kernel has not taken yet.
  int64_t unsent() const { return unsent_.load(std::memory_order_relaxed); }

 private:
  void accept();

  const Methods& methods_;
  const ConnectionLimits limits_;
  const TlsSource tls_;
  const TurnHooks hooks_;
  std::atomic<int64_t> unsent_{0};  // a figure; orders nothing
  int fd_ = -1;
  int port_ = 0;
  size_t next_ = 0;  // thread of the next connection; only the accepting thread touches it
  std::vector<std::unique_ptr<IoThread>> threads_;  // the first one accepts
};

}  // namespace smt::server::rpc
