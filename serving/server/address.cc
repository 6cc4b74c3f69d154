#include "address.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>

namespace smt::server {
namespace {

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

AddressList resolve(const std::string& host, const std::string& port, int flags, const std::string& flag) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | flags;
  addrinfo* found = nullptr;
  int error = getaddrinfo(host.c_str(), port.empty() ? nullptr : port.c_str(), &hints, &found);
  if (error != 0) throw std::runtime_error(flag + ": '" + host + "': " + gai_strerror(error));
  return {found, &freeaddrinfo};
}

// The system's words; empty if one can listen.
std::string listen_error(const std::string& numeric, int port) {
  AddressList list = resolve(numeric, std::to_string(port), AI_NUMERICHOST | AI_NUMERICSERV, numeric);
  int fd = ::socket(list->ai_family, list->ai_socktype | SOCK_CLOEXEC, 0);
  if (fd < 0) return std::strerror(errno);
  int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  bool good = ::bind(fd, list->ai_addr, list->ai_addrlen) == 0 && ::listen(fd, 1) == 0;
  std::string error = good ? "" : std::strerror(errno);
  ::close(fd);
  return error;
}

}  // namespace

std::string numeric_host(const std::string& host, const std::string& flag) {
  AddressList list = resolve(host, "", 0, flag);
  char text[NI_MAXHOST];
  int error = getnameinfo(list->ai_addr, list->ai_addrlen, text, sizeof text, nullptr, 0, NI_NUMERICHOST);
  if (error != 0) throw std::runtime_error(flag + ": '" + host + "': " + gai_strerror(error));
  return text;
}

bool is_loopback(const std::string& numeric) { return numeric == "::1" || numeric.starts_with("127."); }

std::string host_port(const std::string& numeric, int port) {
  bool v6 = numeric.find(':') != std::string::npos;
  return (v6 ? "[" + numeric + "]" : numeric) + ":" + std::to_string(port);
}

void check_listen(const std::string& flag, const std::string& numeric, int port) {
  std::string why = listen_error(numeric, port);
  if (!why.empty()) cannot_listen(flag, numeric, port, why);
}

void cannot_listen(const std::string& flag, const std::string& numeric, int port, const std::string& why) {
  throw std::runtime_error(flag + ": cannot listen on " + host_port(numeric, port) + ": " + why);
}

}  // namespace smt::server
