// Streaming SHA-256 (OpenSSL EVP). Not thread-safe; one object per digest.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace smt::server {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void update(std::span<const std::byte> bytes);
  // 64 lower-case hex digits. Call once, last.
  std::string hex();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

std::string sha256_hex(std::string_view bytes);

}  // namespace smt::server
