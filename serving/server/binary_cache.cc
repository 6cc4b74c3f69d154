#include "binary_cache.h"

#include "file_digest.h"
#include "file_io.h"
#include "log.h"
#include "names.h"
#include "refusal.h"

namespace smt::server {
namespace {

namespace fs = std::filesystem;

void verify_model(const fs::path& path, const std::string& shown, const FileEntry& expected) {
  InputFile file(path, shown);
  if (file.size() != expected.bytes) {
    throw Refused(Reason::kChecksum, shown + ": " + std::to_string(file.size()) + " bytes; the manifest says " +
                                         std::to_string(expected.bytes));
  }
  FileDigest digest(expected);
  std::vector<std::byte> chunk(size_t{1} << 20);
  while (size_t got = file.read(chunk)) digest.update(std::span(chunk).first(got));
  digest.check(shown);
}

}  // namespace

std::shared_ptr<const TemplateBinary> BinaryCache::get(const std::string& template_name, const std::string& abi_hash,
                                                       TouchedFiles& touched) {
  Key key{template_name, abi_hash};
  {
    std::lock_guard lock(mutex_);
    if (auto it = binaries_.find(key); it != binaries_.end()) return it->second;
  }
  fs::path dir = registry_.binary_dir(template_name, abi_hash);
  fs::path manifest_path = dir / "manifest.json";
  fs::path model_path = dir / "model.pt2";
  touched.add(manifest_path);
  touched.add(model_path);
  std::string shown = registry_.shown(manifest_path);
  BinaryManifest manifest;
  try {
    manifest = parse_binary_manifest(read_text(manifest_path, shown, kMaxManifestBytes), shown);
  } catch (const Missing&) {
    throw Refused(Reason::kAbi, "no template binary for ABI hash " + abi_hash + " of template " + quote(template_name) +
                                    ": " + shown + " does not exist; the registry has: " +
                                    shortened(joined(registry_.abi_hashes(template_name)), 300));
  }
  if (manifest.abi_hash != abi_hash) {
    throw Refused(Reason::kManifest, shown + ": field 'abi_hash': found " + manifest.abi_hash +
                                         "; expected the folder's name, " + abi_hash);
  }
  if (manifest.source.name != template_name) {
    throw Refused(Reason::kManifest, shown + ": field 'template.name': found " + quote(manifest.source.name) +
                                         "; expected the folder's name, " + quote(template_name));
  }
  verify_model(model_path, registry_.shown(model_path), manifest.model);
  std::shared_ptr<const TemplateBinary> binary = open_(dir, std::move(manifest));
  log::info("binary_loaded", {{"template", template_name},
                              {"template_version", binary->manifest().source.version},
                              {"abi_hash", abi_hash},
                              {"isa", binary->manifest().isa},
                              {"precision", binary->manifest().precision},
                              {"sha256", binary->manifest().model.sha256}});
  std::lock_guard lock(mutex_);
  binaries_[key] = binary;
  return binary;
}

void BinaryCache::prune() {
  const auto since = std::chrono::steady_clock::now() - kKeepFor;
  std::vector<std::shared_ptr<const TemplateBinary>> unused;
  {
    std::lock_guard lock(mutex_);
    for (auto it = binaries_.begin(); it != binaries_.end();) {
      // Only get() and list() make further references, both of them under the lock or on this thread.
      if (it->second.use_count() == 1) {
        unused.push_back(std::move(it->second));
        it = binaries_.erase(it);
      } else {
        ++it;
      }
    }
  }
  for (const auto& binary : list()) binary->trim(since);
  for (const auto& binary : unused) {
    log::info("binary_unloaded",
              {{"template", binary->manifest().source.name}, {"abi_hash", binary->manifest().abi_hash}});
  }
}

std::vector<std::shared_ptr<const TemplateBinary>> BinaryCache::list() const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<const TemplateBinary>> out;
  for (const auto& [key, binary] : binaries_) out.push_back(binary);
  return out;
}

}  // namespace smt::server
