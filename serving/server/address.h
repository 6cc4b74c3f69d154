// Addresses to listen on.
#pragma once

#include <string>

namespace smt::server {

// The numeric address of `host` ("127.0.0.1", "::1"), resolved where it is a name. Throws std::runtime_error that names
// `flag`.
std::string numeric_host(const std::string& host, const std::string& flag);

// Whether only this machine reaches a numeric address.
bool is_loopback(const std::string& numeric);

// "127.0.0.1:80", "[::1]:80".
std::string host_port(const std::string& numeric, int port);

// Throws std::runtime_error, naming flag, address and reason, if nobody can listen there now. Before gRPC and the HTTP
// library try: they say that it failed, the system says why.
void check_listen(const std::string& flag, const std::string& numeric, int port);
[[noreturn]] void cannot_listen(const std::string& flag, const std::string& numeric, int port, const std::string& why);

}  // namespace smt::server
