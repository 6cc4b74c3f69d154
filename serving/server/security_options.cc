#include "security_options.h"

namespace smt::server {
namespace {

// --PREFIXcert, --PREFIXkey and --PREFIXclient-ca of one listener.
void add_tls_options(CLI::App& app, TlsFiles& files, const std::string& prefix, const std::string& what) {
  CLI::Option* cert =
      app.add_option(prefix + "cert", files.cert,
                     "PEM file with the certificate of " + what +
                         " and its intermediates: turns TLS on. The files are read again when they change; while they "
                         "do not fit together the last good ones stay");
  CLI::Option* key = app.add_option(prefix + "key", files.key, "PEM file with that certificate's key, not encrypted");
  CLI::Option* client_ca =
      app.add_option(prefix + "client-ca", files.client_ca,
                     "PEM file of CAs: mutual TLS, only clients with a certificate that one of them signed connect");
  cert->needs(key);
  key->needs(cert);
  client_ca->needs(cert);
  for (CLI::Option* option : {cert, key, client_ca}) option->always_capture_default(false);
}

}  // namespace

void add_security_options(CLI::App& app, Options& options) {
  add_tls_options(app, options.tls, "--tls-", "the data port");
}

}  // namespace smt::server
