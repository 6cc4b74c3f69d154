#include "pem_files.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <time.h>

#include <memory>
#include <stdexcept>
#include <vector>

#include "file_io.h"
#include "refusal.h"

namespace smt::server {
namespace {

constexpr uint64_t kMaxBytes = 4 << 20;

template <auto free>
struct Free {
  template <typename T>
  void operator()(T* value) const {
    free(value);
  }
};
using Bio = std::unique_ptr<BIO, Free<BIO_free>>;
using Certificate = std::unique_ptr<X509, Free<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;
using Context = std::unique_ptr<SSL_CTX, Free<SSL_CTX_free>>;

Bio reading(const std::string& text) { return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size()))); }

// OpenSSL's words for the last error of this thread, whose queue is emptied.
std::string openssl_error() {
  unsigned long code = ERR_peek_last_error();
  ERR_clear_error();
  const char* reason = ERR_reason_error_string(code);
  return reason ? reason : "damaged";
}

// "--tls-cert: /etc/cert.pem".
[[noreturn]] void refuse(const std::string& where, const std::string& what) {
  throw std::runtime_error(where + ": " + what);
}

std::string read(const std::filesystem::path& path, const std::string& where) {
  try {
    return read_text(path, where, kMaxBytes);
  } catch (const Refused& error) {
    throw std::runtime_error(error.what());  // names the file
  }
}

std::vector<Certificate> certificates(const std::string& text, const std::string& where) {
  std::vector<Certificate> found;
  Bio bio = reading(text);
  ERR_clear_error();
  while (X509* next = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) found.emplace_back(next);
  // Behind the last one OpenSSL finds no further beginning; anything else is a certificate that is cut or damaged.
  if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) {
    refuse(where, "certificate " + std::to_string(found.size() + 1) + " cannot be read: " + openssl_error());
  }
  ERR_clear_error();
  if (found.empty()) refuse(where, "holds no certificate; expected PEM, -----BEGIN CERTIFICATE-----");
  return found;
}

Key private_key(const std::string& text, const std::string& where) {
  // Without this, OpenSSL would ask for a passphrase on the terminal.
  struct Asked {
    bool passphrase = false;
  } asked;
  auto no_passphrase = [](char*, int, int, void* user) {
    static_cast<Asked*>(user)->passphrase = true;
    return -1;
  };
  ERR_clear_error();
  Key key(PEM_read_bio_PrivateKey(reading(text).get(), nullptr, no_passphrase, &asked));
  if (asked.passphrase) refuse(where, "the key is encrypted; expected one without a passphrase (openssl pkey -in …)");
  if (!key) refuse(where, "holds no private key (" + openssl_error() + "); expected PEM, -----BEGIN PRIVATE KEY-----");
  return key;
}

int64_t seconds_since_epoch(const ASN1_TIME* time) {
  tm parts{};
  return ASN1_TIME_to_tm(time, &parts) == 1 ? timegm(&parts) : 0;
}

// HTTP/2, or no connection: RFC 9113 asks for it by name.
int choose_h2(SSL*, const unsigned char** out, unsigned char* out_size, const unsigned char* offered,
              unsigned offered_size, void*) {
  static constexpr unsigned char kH2[] = {2, 'h', '2'};
  unsigned char* chosen = nullptr;
  if (SSL_select_next_proto(&chosen, out_size, kH2, sizeof kH2, offered, offered_size) != OPENSSL_NPN_NEGOTIATED) {
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  }
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

}  // namespace

PemFiles read_pem(const TlsFiles& files, const std::string& flags) {
  PemFiles pem{.cert = read(files.cert, flags + "cert: " + files.cert.string()),
               .key = read(files.key, flags + "key: " + files.key.string()),
               .client_ca = {}};
  if (!files.client_ca.empty()) pem.client_ca = read(files.client_ca, flags + "client-ca: " + files.client_ca.string());
  return pem;
}

int64_t check_pem(const PemFiles& pem, const TlsFiles& files, const std::string& flags) {
  std::string cert_where = flags + "cert: " + files.cert.string();
  std::string key_where = flags + "key: " + files.key.string();
  std::vector<Certificate> chain = certificates(pem.cert, cert_where);
  Key key = private_key(pem.key, key_where);
  if (X509_check_private_key(chain.front().get(), key.get()) != 1) {
    refuse(key_where, "the key is not that of the first certificate in " + files.cert.string());
  }
  // As a connection will: OpenSSL's policy may find a key too short, or a signature too weak.
  Context context(SSL_CTX_new(TLS_server_method()));
  if (!context || SSL_CTX_use_certificate(context.get(), chain.front().get()) != 1) refuse(cert_where, openssl_error());
  if (SSL_CTX_use_PrivateKey(context.get(), key.get()) != 1) refuse(key_where, openssl_error());
  if (!files.client_ca.empty()) certificates(pem.client_ca, flags + "client-ca: " + files.client_ca.string());
  return seconds_since_epoch(X509_get0_notAfter(chain.front().get()));
}

std::shared_ptr<SSL_CTX> server_context(const PemFiles& pem) {
  const std::string where = "TLS";
  auto check = [&](bool good) {
    if (!good) refuse(where, openssl_error());
  };
  Context context(SSL_CTX_new(TLS_server_method()));
  check(context != nullptr);
  SSL_CTX* const made = context.get();
  SSL_CTX_set_min_proto_version(made, TLS1_2_VERSION);
  SSL_CTX_set_mode(made,
                   SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_alpn_select_cb(made, choose_h2, nullptr);
  std::vector<Certificate> chain = certificates(pem.cert, where);
  check(SSL_CTX_use_certificate(made, chain.front().get()) == 1);
  for (size_t i = 1; i < chain.size(); ++i) check(SSL_CTX_add1_chain_cert(made, chain[i].get()) == 1);
  check(SSL_CTX_use_PrivateKey(made, private_key(pem.key, where).get()) == 1);
  if (!pem.client_ca.empty()) {
    for (const Certificate& ca : certificates(pem.client_ca, where)) {
      check(X509_STORE_add_cert(SSL_CTX_get_cert_store(made), ca.get()) == 1);
      check(SSL_CTX_add_client_CA(made, ca.get()) == 1);
    }
    SSL_CTX_set_verify(made, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
    // A session is resumed only where it began; without a name for that, OpenSSL refuses to.
    static constexpr unsigned char kName[] = "smt-server";
    SSL_CTX_set_session_id_context(made, kName, sizeof kName);
  }
  return {context.release(), Free<SSL_CTX_free>()};
}

}  // namespace smt::server
