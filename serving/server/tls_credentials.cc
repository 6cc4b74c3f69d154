#include "tls_credentials.h"

#include <grpc/grpc.h>

#include <stdexcept>

#include "log.h"

namespace smt::server {
namespace {

int64_t now() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// A clock may be wrong, so that is no reason to refuse: clients decide.
void warn_if_expired(const TlsFiles& files, int64_t not_after) {
  if (not_after >= now()) return;
  log::warn("tls_expired", {{"file", files.cert.string()}, {"seconds_ago", now() - not_after}});
}

}  // namespace

TlsCredentials::TlsCredentials(TlsFiles files, std::string flags)
    : files_(std::move(files)),
      flags_(std::move(flags)),
      pem_(read_pem(files_, flags_)),
      not_after_(check_pem(pem_, files_, flags_)),
      context_(server_context(pem_)) {
  warn_if_expired(files_, not_after_);
  thread_ = std::jthread([this](const std::stop_token& stop) { watch(stop); });
}

std::shared_ptr<SSL_CTX> TlsCredentials::context() const {
  std::lock_guard lock(mutex_);
  return context_;
}

int64_t TlsCredentials::not_after() const {
  std::lock_guard lock(mutex_);
  return not_after_;
}

void TlsCredentials::SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) {
  throw std::logic_error(
      "TlsCredentials take no AuthMetadataProcessor: calls are authenticated where they are handled");
}

int TlsCredentials::AddPortToServer(const std::string& address, grpc_server* server) {
  auto request = files_.client_ca.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                          : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
  // gRPC takes the options, and the port keeps the credentials.
  grpc_server_credentials* credentials = grpc_ssl_server_credentials_create_with_options(
      grpc_ssl_server_credentials_create_options_using_config_fetcher(request, &TlsCredentials::fetch, this));
  int port = grpc_server_add_http2_port(server, address.c_str(), credentials);
  grpc_server_credentials_release(credentials);
  return port;
}

// On a thread of gRPC, before each handshake.
grpc_ssl_certificate_config_reload_status TlsCredentials::fetch(void* self,
                                                                grpc_ssl_server_certificate_config** config) {
  auto& credentials = *static_cast<TlsCredentials*>(self);
  std::lock_guard lock(credentials.mutex_);
  if (credentials.handed_out_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
  const PemFiles& pem = credentials.pem_;
  grpc_ssl_pem_key_cert_pair pair{.private_key = pem.key.c_str(), .cert_chain = pem.cert.c_str()};
  // gRPC 1.51 asserts that there is a client CA, also where it asks for no certificates and so never uses it.
  const char* roots = pem.client_ca.empty() ? pem.cert.c_str() : pem.client_ca.c_str();
  *config = grpc_ssl_server_certificate_config_create(roots, &pair, 1);  // a copy, which gRPC frees
  credentials.handed_out_ = true;
  return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
}

void TlsCredentials::watch(const std::stop_token& stop) {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait_for(lock, stop, kLook, [] { return false; });  // returns at once when stop is requested
    }
    if (stop.stop_requested()) return;
    look();
  }
}

// Compares contents, not time stamps: the files are small, and a second write within a clock tick shows.
void TlsCredentials::look() {
  PemFiles found;
  int64_t not_after = 0;
  std::shared_ptr<SSL_CTX> context;
  try {
    found = read_pem(files_, flags_);
    if (found == pem_) {
      complaint_.clear();
      return;
    }
    not_after = check_pem(found, files_, flags_);
    context = server_context(found);
  } catch (const std::exception& error) {
    if (complaint_ != error.what()) {
      log::error("tls_not_reloaded", {{"reason", error.what()}, {"in_use", "what was good before"}});
    }
    complaint_ = error.what();
    return;
  }
  complaint_.clear();
  {
    std::lock_guard lock(mutex_);
    pem_ = std::move(found);
    not_after_ = not_after;
    handed_out_ = false;
    context_ = std::move(context);
  }
  log::info("tls_reloaded", {{"file", files_.cert.string()}, {"expires_in_seconds", not_after - now()}});
  warn_if_expired(files_, not_after);
}

std::shared_ptr<grpc::ServerCredentials> listening_credentials(const std::shared_ptr<TlsCredentials>& tls) {
  return tls ? tls : grpc::InsecureServerCredentials();
}

}  // namespace smt::server
