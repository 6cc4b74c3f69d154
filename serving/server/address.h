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

// Why nobody can listen on this address now, in the system's words; empty if one can. For error messages: the gRPC and
// HTTP libraries only say that it failed.
std::string listen_error(const std::string& numeric, int port);

}  // namespace smt::server
