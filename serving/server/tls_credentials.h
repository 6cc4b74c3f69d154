// TLS of one listener, whose certificate, key and client CA are read again while it runs.
#pragma once

#include <grpc/grpc_security.h>
#include <grpcpp/security/server_credentials.h>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>

#include "pem_files.h"

namespace smt::server {

// gRPC asks for the certificates at every handshake, and gets the newest files that were good as a whole: a file that
// is half written, or a key that does not belong to the certificate yet, is logged and changes nothing. Connections
// that exist go on with what they began with.
//
// Not gRPC's FileWatcherCertificateProvider: that hands on what it reads, and in gRPC 1.51 a key and a certificate that
// do not belong together leave the listener without either.
//
// Thread-safe. For one port; must outlive the grpc::Server, which takes it as a shared_ptr but does not keep it.
class TlsCredentials final : public grpc::ServerCredentials {
 public:
  static constexpr std::chrono::seconds kLook{1};

  // `flags`: beginning of the flags' names in messages, "--tls-". Throws std::runtime_error as read_pem(),
  // check_pem() and server_context().
  TlsCredentials(TlsFiles files, std::string flags);

  // For a connection that begins now, where gRPC is not what listens.
  std::shared_ptr<SSL_CTX> context() const;

  // When the certificate in use expires, in seconds since the epoch.
  int64_t not_after() const;

  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>& processor) override;

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override;
  static grpc_ssl_certificate_config_reload_status fetch(void* self, grpc_ssl_server_certificate_config** config);
  void watch(const std::stop_token& stop);
  void look();

  const TlsFiles files_;
  const std::string flags_;
  std::string complaint_;  // the last one logged; only the watching thread touches it

  mutable std::mutex mutex_;  // guards pem_, not_after_, handed_out_ and context_
  std::condition_variable_any wake_;
  PemFiles pem_;  // in use; changed by the watching thread alone
  int64_t not_after_;
  bool handed_out_ = false;           // gRPC has pem_
  std::shared_ptr<SSL_CTX> context_;  // of pem_
  std::jthread thread_;               // the last member: it uses the others
};

// `tls`, or where it is null those of a listener without TLS.
std::shared_ptr<grpc::ServerCredentials> listening_credentials(const std::shared_ptr<TlsCredentials>& tls);

}  // namespace smt::server
