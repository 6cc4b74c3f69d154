#include "file_digest.h"

#include <array>
#include <cstdint>
#include <optional>

#include "names.h"
#include "refusal.h"
#include "sha256.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace smt::server {

struct FileDigest::Impl {
  std::optional<Sha256> sha256;
  XXH3_state_t xxh3;
};

FileDigest::FileDigest(const FileEntry& expected) : expected_(expected), impl_(std::make_unique<Impl>()) {
  if (expected.xxh3.empty()) {
    impl_->sha256.emplace();
  } else {
    XXH3_128bits_reset(&impl_->xxh3);
  }
}

FileDigest::~FileDigest() = default;

void FileDigest::update(std::span<const std::byte> bytes) {
  if (impl_->sha256) {
    impl_->sha256->update(bytes);
  } else {
    XXH3_128bits_update(&impl_->xxh3, bytes.data(), bytes.size());
  }
}

void FileDigest::check(const std::string& shown) {
  std::string found;
  if (impl_->sha256) {
    found = impl_->sha256->hex();
  } else {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&impl_->xxh3));
    found = hex_of(std::as_bytes(std::span(canonical.digest)));
  }
  if (const std::string& expected = impl_->sha256 ? expected_.sha256 : expected_.xxh3; found != expected) {
    const char* kind = impl_->sha256 ? "sha256" : "xxh3 checksum";
    throw Refused(Reason::kChecksum, shown + ": " + kind + " is " + found + "; the manifest says " + expected);
  }
}

}  // namespace smt::server
