#include "control_listener.h"

#include <stdexcept>

#include "address.h"
#include "log.h"

namespace smt::server {
namespace {

// Names and a few numbers.
constexpr int kMostRequestBytes = 64 << 10;

}  // namespace

ControlListener::ControlListener(const Options& options, RegistryCommands& commands, Metrics& metrics,
                                 const ServerState& state, DrainFunction drain)
    : options_(options),
      host_(numeric_host(options.control_host, "--control-host")),
      token_(options.control_token_file.empty() ? nullptr : std::make_unique<ControlToken>(options.control_token_file)),
      tls_(options.control_tls.enabled() ? std::make_shared<TlsCredentials>(options.control_tls, "--control-tls-")
                                         : nullptr),
      plane_{.commands = commands, .metrics = metrics, .token = token_.get()},
      service_(plane_, state, std::move(drain)) {
  bool everybody = !token_ && options.control_tls.client_ca.empty();
  if (everybody && !is_loopback(host_)) {
    throw std::runtime_error("--control-host: other machines reach " + host_ +
                             ", and nothing says who may call; give --control-token-file, or --control-tls-cert, "
                             "--control-tls-key and --control-tls-client-ca, or listen on 127.0.0.1");
  }
  if (everybody) {
    log::warn("control_open", {{"reason", "every process of this machine may unload and drain: --control-token-file"}});
  } else if (!tls_ && !is_loopback(host_)) {
    log::warn("control_token_in_clear", {{"reason", "the token travels unencrypted: --control-tls-cert"}});
  }
}

ControlListener::~ControlListener() {
  if (grpc_) grpc_->Shutdown(std::chrono::system_clock::now());
}

void ControlListener::start() {
  check_listen("--control-port", host_, *options_.control_port);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(host_port(host_, *options_.control_port), listening_credentials(tls_), &port_);
  builder.RegisterService(&service_);
  for (const auto& service : more_) builder.RegisterService(service.get());
  builder.SetMaxReceiveMessageSize(kMostRequestBytes);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // see Server
  grpc_ = builder.BuildAndStart();
  if (!grpc_ || port_ == 0) cannot_listen("--control-port", host_, *options_.control_port, "see the log");
}

}  // namespace smt::server
