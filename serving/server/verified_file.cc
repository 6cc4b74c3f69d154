#include "verified_file.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "names.h"
#include "refusal.h"

namespace smt::server {
namespace {

// What is read at a time: the digest and the check for numbers find it in the core's cache.
constexpr size_t kChunk = size_t{256} << 10;

void check_size(uint64_t found, const FileEntry& expected, const std::string& shown) {
  if (found == expected.bytes) return;
  throw Refused(Reason::kChecksum,
                shown + ": " + std::to_string(found) + " bytes; the manifest says " + std::to_string(expected.bytes));
}

// Finds the first number of a tensor that is none.
class FiniteCheck {
 public:
  // The next bytes of the tensor, a whole number of floats.
  void look(std::span<const std::byte> part) {
    size_t count = part.size() / sizeof(float);
    if (!found_ && any(part.data(), count)) {
      for (size_t i = 0; !found_; ++i) {
        if (any(part.data() + i * sizeof(float), 1)) found_ = seen_ + i;
      }
    }
    seen_ += count;
  }
  // Throws Refused(kWeights).
  void report(std::string_view tensor, const std::string& shown) const {
    if (!found_) return;
    throw Refused(Reason::kWeights, shown + ": tensor " + quote(tensor) + ": element " + std::to_string(*found_) +
                                        " is not finite; expected finite weights");
  }

 private:
  // Without a branch, a comparison or a narrower type: so the compiler looks at many at once.
  static bool any(const std::byte* floats, size_t count) {
    constexpr uint32_t kExponent = 0x7f800000;  // all ones: infinity or NaN, and one more carries into the sign
    uint32_t carries = 0;
    for (size_t i = 0; i < count; ++i) {
      uint32_t bits = 0;
      std::memcpy(&bits, floats + i * sizeof bits, sizeof bits);
      carries |= (bits & kExponent) + (kExponent & -kExponent);
    }
    return carries >> 31 != 0;
  }

  size_t seen_ = 0;  // elements
  std::optional<size_t> found_;
};

}  // namespace

void VerifiedFile::read(std::span<std::byte> out, const std::function<void(std::span<const std::byte>)>& look) {
  while (!out.empty()) {
    if (reading_.stop.stop_requested())
      throw Refused(Reason::kIo, file_.shown() + ": loading was interrupted by shutdown");
    std::span<std::byte> part = out.first(std::min(out.size(), kChunk));
    if (file_.read(part) != part.size()) {
      throw Refused(Reason::kChecksum, file_.shown() + ": the file became shorter while it was read");
    }
    digest_.update(part);
    if (look) look(part);
    left_ -= part.size();
    out = out.subspan(part.size());
    if (reading_.pace != nullptr) reading_.pace->spend(part.size(), reading_.stop);
  }
}

void VerifiedFile::read_finite(std::span<float> out, std::string_view tensor) {
  FiniteCheck finite;
  read(std::as_writable_bytes(out), [&](std::span<const std::byte> part) { finite.look(part); });
  finite.report(tensor, file_.shown());
}

void VerifiedFile::skip_to_end() {
  std::vector<std::byte> scratch(kChunk);
  while (left_ > 0) read(std::span(scratch).first(std::min<uint64_t>(left_, kChunk)));
}

void read_verified(const std::filesystem::path& path, const std::string& shown, const FileEntry& expected,
                   const ReadTensors& tensors, Reading reading) {
  try {
    InputFile file(path, shown);
    check_size(file.size(), expected, shown);
    VerifiedFile verified(file, expected, std::move(reading));
    std::optional<Refused> malformed;
    try {
      std::vector<std::byte> head(std::min(kSafetensorsPrefix, file.size()));
      verified.read(head);
      uint64_t length = safetensors_header_bytes(head, file.size(), shown);
      head.resize(kSafetensorsPrefix + length);
      verified.read(std::span(head).subspan(kSafetensorsPrefix));
      tensors(verified, parse_safetensors(head, file.size(), shown));
    } catch (const Refused& error) {
      // A damaged file is reported as damaged, not as whatever its damaged header happens to say.
      if (error.reason() != Reason::kWeights) throw;
      malformed = error;
    }
    verified.skip_to_end();
    verified.check();
    if (malformed) throw *malformed;
  } catch (const std::bad_alloc&) {
    throw Refused(Reason::kIo,
                  shown + ": not enough memory for " + std::to_string(expected.bytes) + " bytes of weights");
  }
}

void expect_tensor(const TensorInfo& tensor, std::string_view dtype, size_t rank, const std::string& shown) {
  if (tensor.dtype != dtype || tensor.shape.size() != rank) {
    throw Refused(Reason::kWeights, shown + ": tensor " + quote(tensor.name) + ": found " + tensor.dtype + " of " +
                                        std::to_string(tensor.shape.size()) + " dimensions; expected " +
                                        std::string(dtype) + " of " + std::to_string(rank));
  }
}

}  // namespace smt::server
