#include "transport.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>

#include "timed_read.h"

namespace smt::loadgen {
namespace {

constexpr int kMostUnsent = 128 << 10;
constexpr unsigned char kH2[] = {2, 'h', '2'};

std::string tls_error() {
  unsigned long code = ERR_get_error();
  ERR_clear_error();
  if (code == 0) return "no reason given";
  const char* reason = ERR_reason_error_string(code);
  return reason != nullptr ? reason : "error " + std::to_string(code);
}

}  // namespace

Address resolve(const std::string& target) {
  size_t colon = target.rfind(':');
  if (colon == std::string::npos || colon == 0) {
    throw PlanError("plan: targets: found '" + target + "'; expected host:port");
  }
  Address address;
  address.name = target;
  address.host = target.substr(0, colon);
  if (address.host.front() == '[' && address.host.back() == ']') {
    address.host = address.host.substr(1, address.host.size() - 2);
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  int error = getaddrinfo(address.host.c_str(), target.c_str() + colon + 1, &hints, &found);
  if (error != 0) throw PlanError("plan: targets: '" + target + "': " + gai_strerror(error));
  std::memcpy(&address.socket, found->ai_addr, found->ai_addrlen);
  address.length = found->ai_addrlen;
  freeaddrinfo(found);
  return address;
}

TlsContext make_tls(const Plan& plan) {
  if (!plan.use_tls) return nullptr;
  TlsContext context(SSL_CTX_new(TLS_client_method()));
  if (!context) throw PlanError("TLS: " + tls_error());
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_mode(context.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_alpn_protos(context.get(), kH2, sizeof kH2);
  const Tls& tls = plan.tls;
  auto check = [](int good, const char* field, const std::string& file) {
    if (good != 1) throw PlanError(std::string("plan: tls.") + field + ": '" + file + "': " + tls_error());
  };
  if (tls.ca.empty()) {
    check(SSL_CTX_set_default_verify_paths(context.get()), "ca", "");
  } else {
    check(SSL_CTX_load_verify_locations(context.get(), tls.ca.c_str(), nullptr), "ca", tls.ca);
  }
  if (!tls.cert.empty()) {
    check(SSL_CTX_use_certificate_chain_file(context.get(), tls.cert.c_str()), "cert", tls.cert);
    check(SSL_CTX_use_PrivateKey_file(context.get(), tls.key.c_str(), SSL_FILETYPE_PEM), "key", tls.key);
  }
  return context;
}

Transport::Transport(const Address& address, SSL_CTX* tls, const std::string& server_name) {
  fd_ = socket(address.socket.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd_ < 0) {
    closed_by_system();
    return;
  }
  int on = 1;
  setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  // What the network does not take yet waits with us, and not in the kernel: see Connection::submit().
  setsockopt(fd_, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &kMostUnsent, sizeof kMostUnsent);
  if (connect(fd_, reinterpret_cast<const sockaddr*>(&address.socket), address.length) != 0 && errno != EINPROGRESS) {
    closed_by_system();
    return;
  }
  if (tls == nullptr) {
    net::note_arrivals(fd_);
    return;
  }
  tls_.reset(SSL_new(tls));
  const std::string& name = server_name.empty() ? address.host : server_name;
  in6_addr numeric;
  bool is_address = inet_pton(AF_INET, name.c_str(), &numeric) == 1 || inet_pton(AF_INET6, name.c_str(), &numeric) == 1;
  if (is_address) {
    X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(tls_.get()), name.c_str());
  } else {
    SSL_set1_host(tls_.get(), name.c_str());
    SSL_set_tlsext_host_name(tls_.get(), name.c_str());
  }
  SSL_set_fd(tls_.get(), fd_);
  SSL_set_connect_state(tls_.get());
}

Transport::~Transport() {
  if (fd_ >= 0) ::close(fd_);
}

ssize_t Transport::handshake() {
  if (!error_.empty()) return kClosed;
  if (!connected_) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) return closed(std::strerror(error));
    sockaddr_storage peer;
    size = sizeof peer;
    if (getpeername(fd_, reinterpret_cast<sockaddr*>(&peer), &size) != 0) return kBlocked;
    connected_ = true;
  }
  if (!tls_) return 1;
  int result = SSL_connect(tls_.get());
  if (result != 1) return tls_result(result, "TLS handshake");
  const unsigned char* chosen = nullptr;
  unsigned length = 0;
  SSL_get0_alpn_selected(tls_.get(), &chosen, &length);
  if (length != 2 || std::memcmp(chosen, "h2", 2) != 0) return closed("the server does not offer HTTP/2 (ALPN h2)");
  return 1;
}

ssize_t Transport::read(char* into, size_t size) {
  if (tls_) {
    int result = SSL_read(tls_.get(), into, static_cast<int>(std::min<size_t>(size, INT_MAX)));
    return result > 0 ? result : tls_result(result, "TLS");
  }
  for (;;) {
    ssize_t result = net::timed_read(fd_, into, size, waited_);
    if (result > 0) return result;
    if (result == 0) return closed("the server closed the connection");
    if (errno == EAGAIN) return kBlocked;
    if (errno != EINTR) return closed_by_system();
  }
}

ssize_t Transport::write(const iovec* parts, int count) {
  if (tls_) {
    // One record: small parts together, as each record costs a tag and a pass of the cipher.
    std::array<char, 16 << 10> record;
    size_t size = 0;
    for (int i = 0; i < count && size < record.size(); ++i) {
      size_t part = std::min(parts[i].iov_len, record.size() - size);
      std::memcpy(record.data() + size, parts[i].iov_base, part);
      size += part;
    }
    int result = SSL_write(tls_.get(), record.data(), static_cast<int>(size));
    return result > 0 ? result : tls_result(result, "TLS");
  }
  for (;;) {
    ssize_t result = ::writev(fd_, parts, count);
    if (result >= 0) return result;
    if (errno == EAGAIN) return kBlocked;
    if (errno != EINTR) return closed_by_system();
  }
}

void Transport::reset() {
  if (fd_ < 0) return;
  linger now{1, 0};
  setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

ssize_t Transport::closed(std::string why) {
  error_ = std::move(why);
  return kClosed;
}

ssize_t Transport::closed_by_system() { return closed(std::strerror(errno)); }

ssize_t Transport::tls_result(int result, const char* what) {
  int error = SSL_get_error(tls_.get(), result);
  if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return kBlocked;
  if (error == SSL_ERROR_ZERO_RETURN) return closed("the server closed the connection");
  long verified = SSL_get_verify_result(tls_.get());
  if (verified != X509_V_OK) return closed(std::string(what) + ": " + X509_verify_cert_error_string(verified));
  if (error == SSL_ERROR_SYSCALL && errno != 0) return closed(std::string(what) + ": " + std::strerror(errno));
  return closed(std::string(what) + ": " + tls_error());
}

}  // namespace smt::loadgen
