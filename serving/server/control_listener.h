// The listener for operators: a port of its own, with who may call decided apart from the data port.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <vector>

#include "control_call.h"
#include "control_service.h"
#include "control_token.h"
#include "options.h"
#include "tls_credentials.h"

namespace smt::server {

// Use from one thread: construct, add() further services, start().
class ControlListener {
 public:
  // Requires options.control_port. Throws std::runtime_error, which names the flag, for a token or TLS file that cannot
  // be used, and for an address that other machines reach without either a token or mutual TLS.
  ControlListener(const Options& options, RegistryCommands& commands, Metrics& metrics, const ServerState& state,
                  DrainFunction drain);
  // Ends the calls that are not answered yet.
  ~ControlListener();

  // What calls of further services go through (ControlCall).
  ControlPlane& plane() { return plane_; }
  void add(std::unique_ptr<grpc::Service> service) { more_.push_back(std::move(service)); }

  // Binds; throws std::runtime_error that names the address and the reason.
  void start();

  int port() const { return port_; }
  const TlsCredentials* tls() const { return tls_.get(); }

 private:
  const Options& options_;
  const std::string host_;
  std::unique_ptr<ControlToken> token_;  // null: none is asked for
  std::shared_ptr<TlsCredentials> tls_;  // null: no TLS
  ControlPlane plane_;
  ControlServiceImpl service_;
  std::vector<std::unique_ptr<grpc::Service>> more_;
  std::unique_ptr<grpc::Server> grpc_;
  int port_ = 0;
};

}  // namespace smt::server
