// Why a snapshot or a template binary was not taken. One enum, because it is a metric label and must stay bounded.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace smt::server {

enum class Reason {
  kPointer,   // `current` does not hold a version name
  kManifest,  // a manifest is missing, is not JSON, or a field of it is wrong
  kChecksum,  // a file's size or digest differs from what the manifest says
  kWeights,   // the weights file's tensors have wrong names, types or shapes, or values that are not finite
  kAbi,       // no template binary in the registry has the snapshot's ABI hash
  kFeatures,  // the FeatureSpec is malformed or does not fit the template binary
  kBinary,    // the template binary cannot be used here (CPU, torch, its own checksum or interface)
  kProbe,     // a trial request gave an error or scores that are not finite
  kMemory,    // there is no room for its weights; tried again after a while
  kIo,        // the file system failed; tried again after a while
};
inline constexpr Reason kAllReasons[] = {Reason::kPointer, Reason::kManifest, Reason::kChecksum, Reason::kWeights,
                                         Reason::kAbi,     Reason::kFeatures, Reason::kBinary,   Reason::kProbe,
                                         Reason::kMemory,  Reason::kIo};

constexpr std::string_view reason_name(Reason reason) {
  switch (reason) {
    case Reason::kPointer:
      return "pointer";
    case Reason::kManifest:
      return "manifest";
    case Reason::kChecksum:
      return "checksum";
    case Reason::kWeights:
      return "weights";
    case Reason::kAbi:
      return "abi";
    case Reason::kFeatures:
      return "features";
    case Reason::kBinary:
      return "binary";
    case Reason::kProbe:
      return "probe";
    case Reason::kMemory:
      return "memory";
    case Reason::kIo:
      return "io";
  }
  return "io";
}

// what() names the file and the field, what was found and what is expected.
class Refused : public std::runtime_error {
 public:
  Refused(Reason reason, const std::string& message) : std::runtime_error(message), reason_(reason) {}
  Reason reason() const { return reason_; }

 private:
  Reason reason_;
};

// A file that does not exist.
class Missing : public Refused {
  using Refused::Refused;
};

}  // namespace smt::server
