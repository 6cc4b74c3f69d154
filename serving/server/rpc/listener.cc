#include "listener.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "address.h"
#include "log.h"

namespace smt::server::rpc {
namespace {

constexpr int kBacklog = 1024;
// Connections are accepted by so many in a row: those that there are have their turns too.
constexpr int kAccepts = 16;

socklen_t parse(const std::string& host, int port, sockaddr_storage& out) {
  auto& v4 = reinterpret_cast<sockaddr_in&>(out);
  if (inet_pton(AF_INET, host.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(static_cast<uint16_t>(port));
    return sizeof v4;
  }
  auto& v6 = reinterpret_cast<sockaddr_in6&>(out);
  if (inet_pton(AF_INET6, host.c_str(), &v6.sin6_addr) != 1) return 0;
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(static_cast<uint16_t>(port));
  return sizeof v6;
}

int bound_port(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return ntohs(address.ss_family == AF_INET ? reinterpret_cast<sockaddr_in&>(address).sin_port
                                            : reinterpret_cast<sockaddr_in6&>(address).sin6_port);
}

}  // namespace

Listener::Listener(const Address& address, size_t threads, const Methods& methods, const ConnectionLimits& limits,
                   TlsSource tls, TurnHooks hooks)
    : methods_(methods), limits_(limits), tls_(std::move(tls)), hooks_(std::move(hooks)) {
  sockaddr_storage socket_address{};
  const socklen_t size = parse(address.host, address.port, socket_address);
  fd_ = ::socket(socket_address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  // Not SO_REUSEPORT: two servers on one port would share its requests at random.
  const int on = 1;
  if (fd_ >= 0) ::setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (fd_ < 0 || ::bind(fd_, reinterpret_cast<const sockaddr*>(&socket_address), size) != 0 ||
      ::listen(fd_, kBacklog) != 0) {
    const std::string why = std::strerror(errno);
    if (fd_ >= 0) ::close(fd_);
    cannot_listen(address.flag, address.host, address.port, why);
  }
  port_ = bound_port(fd_);
  for (size_t i = 0; i < threads; ++i) threads_.push_back(std::make_unique<IoThread>(hooks_));
  threads_.front()->accept_from(fd_, [this] { accept(); });
}

Listener::~Listener() {
  threads_.clear();
  ::close(fd_);
}

void Listener::start() {
  for (const auto& thread : threads_) thread->start();
}

void Listener::accept() {
  const std::shared_ptr<SSL_CTX> tls = tls_ ? tls_() : nullptr;
  for (int i = 0; i < kAccepts; ++i) {
    const int fd = ::accept4(fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
        // The connection stays in the kernel's queue, and would wake us at once again.
        log::warn("not_accepted", {{"reason", std::strerror(errno)}});
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      return;
    }
    auto connection = std::make_shared<Connection>(fd, tls.get(), methods_, limits_, unsent_);
    threads_[next_++ % threads_.size()]->add(std::move(connection));
  }
}

void Listener::go_away() {
  for (const auto& thread : threads_) {
    thread->each([](Connection& connection) { connection.go_away(); });
  }
}

}  // namespace smt::server::rpc
