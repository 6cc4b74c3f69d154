#include "security_options.h"

namespace smt::server {
namespace {

// --PREFIXcert, --PREFIXkey and --PREFIXclient-ca of one listener.
std::vector<CLI::Option*> add_tls_options(CLI::App& app, TlsFiles& files, const std::string& prefix,
                                          const std::string& what) {
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
  return {cert, key, client_ca};
}

}  // namespace

void add_security_options(CLI::App& app, Options& options) {
  app.option_defaults()->always_capture_default(false);  // what is not given is not there
  add_tls_options(app, options.tls, "--tls-", "the data port");
  CLI::Option* port =
      app.add_option(
             "--control-port", options.control_port,
             "Control port, gRPC: smt.v1.ControlService loads, unloads and rolls back scenarios, drains, sets the "
             "log level. Not opened unless this is given; 0: the system picks one")
          ->check(CLI::Range(0, 65535));
  std::vector<CLI::Option*> more = add_tls_options(app, options.control_tls, "--control-tls-", "the control port");
  more.push_back(
      app.add_option("--control-host", options.control_host,
                     "Address that --control-port listens on. Other than this machine's own only with a token "
                     "or mutual TLS")
          ->capture_default_str());
  more.push_back(
      app.add_option("--control-token-file", options.control_token_file,
                     "File with a token, not readable by every user: callers of the control service send it as "
                     "'authorization: Bearer TOKEN'. Read at every call"));
  for (CLI::Option* option : more) option->needs(port);
  app.option_defaults()->always_capture_default();
}

}  // namespace smt::server
