// The template binaries in use, loaded once per ABI hash when the first snapshot needs them.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "file_io.h"
#include "registry.h"
#include "template_binary.h"

namespace smt::server {

// Opens model.pt2 in `dir`, whose manifest was parsed and whose digest was verified. Throws Refused(kBinary).
using BinaryOpener =
    std::function<std::shared_ptr<const TemplateBinary>(const std::filesystem::path& dir, BinaryManifest manifest)>;

class BinaryCache {
 public:
  static constexpr std::chrono::seconds kKeepFor{10};  // as the allocator does (allocator.cc)

  BinaryCache(Registry registry, BinaryOpener open) : registry_(std::move(registry)), open_(std::move(open)) {}

  // The binary of a template and ABI hash. The files looked at are added to `touched`, also when it throws Refused:
  // kAbi when the registry has none, kManifest, kChecksum or kBinary when it cannot be used.
  // Called by the watcher thread only.
  std::shared_ptr<const TemplateBinary> get(const std::string& template_name, const std::string& abi_hash,
                                            TouchedFiles& touched);

  // Unloads binaries that no snapshot uses, and gives memory of the others back that no version has used for kKeepFor.
  // Called by the watcher thread only: code must not be unmapped by a thread that may be running it.
  void prune();

  // Every binary loaded, by template and ABI hash. Thread-safe.
  std::vector<std::shared_ptr<const TemplateBinary>> list() const;

 private:
  using Key = std::pair<std::string, std::string>;  // template, ABI hash

  const Registry registry_;
  const BinaryOpener open_;
  // Guards binaries_ (written by the watcher thread, read by list()). Never held while a binary is opened or unloaded.
  mutable std::mutex mutex_;
  std::map<Key, std::shared_ptr<const TemplateBinary>> binaries_;
};

}  // namespace smt::server
