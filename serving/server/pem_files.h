// The files of one listener's TLS: read, and checked together before anything uses them.
#pragma once

#include <openssl/ssl.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

namespace smt::server {

struct TlsFiles {
  std::filesystem::path cert;       // PEM: the listener's certificate, then its intermediates; empty: no TLS
  std::filesystem::path key;        // PEM: the private key of the first certificate, not encrypted
  std::filesystem::path client_ca;  // PEM: who may have signed clients' certificates; empty: none are asked for

  bool enabled() const { return !cert.empty(); }
};

struct PemFiles {
  std::string cert;
  std::string key;
  std::string client_ca;

  bool operator==(const PemFiles&) const = default;
};

// What the files hold now, unchecked. `flags` is the beginning of the flags that name them, "--tls-". Throws
// std::runtime_error that names flag and file.
PemFiles read_pem(const TlsFiles& files, const std::string& flags);

// When the certificate expires, in seconds since the epoch. Throws std::runtime_error that names flag and file, for
// what is no PEM, for a key that is encrypted or of another certificate, and for what this machine's OpenSSL does not
// accept in a server.
int64_t check_pem(const PemFiles& pem, const TlsFiles& files, const std::string& flags);

// What a server of HTTP/2 (ALPN h2, TLS 1.2 and newer) needs of files that passed check_pem(): with a client CA every
// client has to show a certificate that it signed. Throws std::runtime_error for what OpenSSL does not take all the
// same.
std::shared_ptr<SSL_CTX> server_context(const PemFiles& pem);

}  // namespace smt::server
