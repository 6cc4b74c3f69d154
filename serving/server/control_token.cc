#include "control_token.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <stdexcept>

#include "file_io.h"
#include "log.h"
#include "refusal.h"

namespace smt::server {
namespace {

constexpr std::string_view kBearer = "Bearer ";
constexpr size_t kMostBytes = 4096;

// Of equal length whatever is compared.
using Digest = std::array<unsigned char, 32>;
Digest digest(std::string_view text) {
  Digest out{};
  EVP_Digest(text.data(), text.size(), out.data(), nullptr, EVP_sha256(), nullptr);
  return out;
}

std::string octal(mode_t mode) {
  char text[8];
  snprintf(text, sizeof text, "%04o", static_cast<unsigned>(mode & 07777));
  return text;
}

}  // namespace

ControlToken::ControlToken(std::filesystem::path path) : path_(std::move(path)) { read(); }

std::string ControlToken::read() const {
  std::string where = "--control-token-file: " + path_.string();
  std::string text;
  try {
    text = read_text(path_, where, kMostBytes + 2);
  } catch (const Refused& error) {
    throw std::runtime_error(error.what());  // names the file
  }
  struct stat found {};
  if (::stat(path_.c_str(), &found) != 0 || (found.st_mode & (S_IROTH | S_IWOTH)) != 0) {
    throw std::runtime_error(where + ": mode " + octal(found.st_mode) +
                             " lets every user of this machine at it; expected 0600 or 0640 (chmod o-rwx)");
  }
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  // What travels in a header.
  bool printable = std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < '\x7f'; });
  if (text.empty() || text.size() > kMostBytes || !printable) {
    throw std::runtime_error(
        where + ": found " + std::to_string(text.size()) +
        " bytes; expected one line, the token, of 1..4096 printable ASCII characters without spaces");
  }
  return text;
}

bool ControlToken::matches(std::string_view authorization) const {
  std::string token;
  std::string complaint;
  try {
    token = read();
  } catch (const std::exception& error) {
    complaint = error.what();
  }
  {
    std::lock_guard lock(mutex_);
    if (!complaint.empty() && complaint != complaint_) log::error("control_token_unusable", {{"reason", complaint}});
    complaint_ = complaint;
  }
  if (!complaint.empty() || !authorization.starts_with(kBearer)) return false;
  Digest given = digest(authorization.substr(kBearer.size()));
  Digest expected = digest(token);
  return CRYPTO_memcmp(given.data(), expected.data(), expected.size()) == 0;
}

}  // namespace smt::server
