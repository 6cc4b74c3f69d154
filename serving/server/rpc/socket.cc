#include "socket.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <new>
#include <string_view>

#include "timed_read.h"

namespace smt::server::rpc {
namespace {

std::string tls_error() {
  unsigned long code = ERR_get_error();
  ERR_clear_error();
  const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  return reason != nullptr ? reason : "no reason given";
}

}  // namespace

Socket::Socket(int fd, SSL_CTX* tls) : fd_(fd) {
  int on = 1;
  setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (tls == nullptr) {
    net::note_arrivals(fd_);
    return;
  }
  tls_.reset(SSL_new(tls));
  if (!tls_) throw std::bad_alloc();
  SSL_set_fd(tls_.get(), fd_);
  SSL_set_accept_state(tls_.get());
}

Socket::~Socket() { ::close(fd_); }

ssize_t Socket::handshake() {
  if (!tls_) return 1;
  ERR_clear_error();
  int result = SSL_do_handshake(tls_.get());
  if (result != 1) return tls_result(result, "TLS handshake");
  const unsigned char* chosen = nullptr;
  unsigned length = 0;
  SSL_get0_alpn_selected(tls_.get(), &chosen, &length);
  if (std::string_view(reinterpret_cast<const char*>(chosen), length) != "h2") {
    return closed("the client does not speak HTTP/2 (ALPN h2)");
  }
  return 1;
}

ssize_t Socket::read(char* into, size_t size) {
  if (tls_) {
    ERR_clear_error();
    int result = SSL_read(tls_.get(), into, static_cast<int>(std::min<size_t>(size, INT_MAX)));
    return result > 0 ? result : tls_result(result, "TLS");
  }
  for (;;) {
    ssize_t result = net::timed_read(fd_, into, size, waited_);
    if (result > 0) return result;
    if (result == 0) return closed("the client closed the connection");
    if (errno == EAGAIN) return kBlocked;
    if (errno != EINTR) return closed(std::strerror(errno));
  }
}

std::optional<std::chrono::microseconds> Socket::round_trip() const {
  tcp_info info{};
  info.tcpi_min_rtt = UINT32_MAX;  // what the system says as well when it has seen none
  socklen_t size = sizeof info;
  if (::getsockopt(fd_, IPPROTO_TCP, TCP_INFO, &info, &size) != 0 || info.tcpi_min_rtt == UINT32_MAX) {
    return std::nullopt;
  }
  return std::chrono::microseconds(info.tcpi_min_rtt);
}

ssize_t Socket::write(const char* data, size_t size) {
  if (tls_) {
    ERR_clear_error();
    int result = SSL_write(tls_.get(), data, static_cast<int>(std::min<size_t>(size, INT_MAX)));
    return result > 0 ? result : tls_result(result, "TLS");
  }
  for (;;) {
    ssize_t result = ::send(fd_, data, size, MSG_NOSIGNAL);
    if (result >= 0) return result;
    if (errno == EAGAIN) return kBlocked;
    if (errno != EINTR) return closed(std::strerror(errno));
  }
}

void Socket::shut_down() { ::shutdown(fd_, SHUT_RDWR); }

ssize_t Socket::closed(std::string why) {
  error_ = std::move(why);
  return kClosed;
}

ssize_t Socket::tls_result(int result, const char* what) {
  int error = SSL_get_error(tls_.get(), result);
  if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return kBlocked;
  if (error == SSL_ERROR_ZERO_RETURN) return closed("the client closed the connection");
  long verified = SSL_get_verify_result(tls_.get());
  if (verified != X509_V_OK) return closed(std::string(what) + ": " + X509_verify_cert_error_string(verified));
  if (error == SSL_ERROR_SYSCALL) {
    return closed(std::string(what) + ": " + (errno != 0 ? std::strerror(errno) : "the connection broke"));
  }
  return closed(std::string(what) + ": " + tls_error());
}

}  // namespace smt::server::rpc
