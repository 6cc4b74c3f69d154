// Whether a file's bytes are those that a manifest promises.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "manifest.h"

namespace smt::server {

// Compares the XXH3-128, which keeps up with memory, where the manifest has one; the SHA-256 otherwise, as of what an
// older publisher wrote. Against accidents either will do, and who can forge a file in the registry can forge its
// manifest too.
class FileDigest {
 public:
  // `expected` must outlive it. Throws std::runtime_error when the digest cannot be started.
  explicit FileDigest(const FileEntry& expected);
  ~FileDigest();
  FileDigest(const FileDigest&) = delete;
  FileDigest& operator=(const FileDigest&) = delete;

  void update(std::span<const std::byte> bytes);
  // After the whole file. Throws Refused(kChecksum).
  void check(const std::string& shown);

 private:
  struct Impl;
  const FileEntry& expected_;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace smt::server
