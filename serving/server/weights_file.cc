#include "weights_file.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "file_io.h"
#include "names.h"
#include "refusal.h"
#include "safetensors.h"
#include "sha256.h"

namespace smt::server {
namespace {

// What is read at a time: the digest and the check for numbers find it in the core's cache.
constexpr size_t kChunk = size_t{256} << 10;

void check_size(uint64_t found, const FileEntry& expected, const std::string& shown) {
  if (found == expected.bytes) return;
  throw Refused(Reason::kChecksum,
                shown + ": " + std::to_string(found) + " bytes; the manifest says " + std::to_string(expected.bytes));
}

// A file read front to back, every byte of it through the digest.
class HashedFile {
 public:
  HashedFile(InputFile& file, std::stop_token stop) : file_(file), stop_(std::move(stop)) {}

  // Fills `out` completely, or throws Refused(kChecksum): the file is shorter than its size promised. `look` is called
  // with each part as soon as it is there.
  template <typename Look>
  void read(std::span<std::byte> out, Look&& look) {
    while (!out.empty()) {
      if (stop_.stop_requested()) throw Refused(Reason::kIo, file_.shown() + ": loading was interrupted by shutdown");
      std::span<std::byte> part = out.first(std::min(out.size(), kChunk));
      if (file_.read(part) != part.size()) {
        throw Refused(Reason::kChecksum, file_.shown() + ": the file became shorter while it was read");
      }
      digest_.update(part);
      look(part);
      left_ -= part.size();
      out = out.subspan(part.size());
    }
  }
  void read(std::span<std::byte> out) {
    read(out, [](std::span<const std::byte>) {});
  }

  void skip_to_end() {
    std::vector<std::byte> scratch(kChunk);
    while (left_ > 0) read(std::span(scratch).first(std::min<uint64_t>(left_, kChunk)));
  }

  std::string hex() { return digest_.hex(); }

 private:
  InputFile& file_;
  std::stop_token stop_;
  Sha256 digest_;
  uint64_t left_ = file_.size();
};

void check_tensor(const TensorInfo& tensor, size_t rank, const std::string& shown) {
  if (tensor.dtype != "F32" || tensor.shape.size() != rank) {
    throw Refused(Reason::kWeights, shown + ": tensor " + quote(tensor.name) + ": found " + tensor.dtype + " of " +
                                        std::to_string(tensor.shape.size()) + " dimensions; expected F32 of " +
                                        std::to_string(rank));
  }
}

WeightShapes shapes_of(const SafetensorsHeader& header, const std::string& shown) {
  WeightShapes shapes;
  bool slab = false;
  bool table = false;
  for (const TensorInfo& tensor : header.tensors) {
    if (tensor.name == "slab") {
      check_tensor(tensor, 1, shown);
      shapes.slab_elements = tensor.shape[0];
      slab = true;
    } else if (tensor.name == "table") {
      check_tensor(tensor, 2, shown);
      shapes.table_rows = tensor.shape[0];
      shapes.dim = tensor.shape[1];
      table = true;
    } else {
      throw Refused(Reason::kWeights, shown + ": tensor " + quote(tensor.name) + ": expected only 'slab' and 'table'");
    }
  }
  if (!slab || !table) {
    throw Refused(Reason::kWeights, shown + ": no tensor '" + (slab ? "table" : "slab") + "' in the file");
  }
  return shapes;
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
  void report(const std::string& tensor, const std::string& shown) const {
    if (!found_) return;
    throw Refused(Reason::kWeights, shown + ": tensor '" + tensor + "': element " + std::to_string(*found_) +
                                        " is not finite; expected finite weights");
  }

 private:
  static bool any(const std::byte* floats, size_t count) {
    constexpr uint32_t kExponent = 0x7f800000;  // all ones: infinity or NaN
    bool found = false;
    for (size_t i = 0; i < count; ++i) {
      uint32_t bits = 0;
      std::memcpy(&bits, floats + i * sizeof bits, sizeof bits);
      found |= (bits & kExponent) == kExponent;
    }
    return found;
  }

  size_t seen_ = 0;  // elements
  std::optional<size_t> found_;
};

}  // namespace

void read_weights(const std::filesystem::path& path, const std::string& shown, const FileEntry& expected,
                  const PlaceWeights& place, std::stop_token stop) {
  try {
    InputFile file(path, shown);
    check_size(file.size(), expected, shown);
    HashedFile hashed(file, std::move(stop));
    std::optional<Refused> malformed;
    try {
      std::vector<std::byte> head(std::min(kSafetensorsPrefix, file.size()));
      hashed.read(head);
      uint64_t length = safetensors_header_bytes(head, file.size(), shown);
      head.resize(kSafetensorsPrefix + length);
      hashed.read(std::span(head).subspan(kSafetensorsPrefix));
      SafetensorsHeader header = parse_safetensors(head, file.size(), shown);
      WeightPlaces places = place(shapes_of(header, shown));
      for (const TensorInfo& tensor : header.tensors) {
        FiniteCheck finite;
        hashed.read(std::as_writable_bytes(tensor.name == "slab" ? places.slab : places.table),
                    [&](std::span<const std::byte> part) { finite.look(part); });
        finite.report(tensor.name, shown);
      }
    } catch (const Refused& error) {
      // A damaged file is reported as damaged, not as whatever its damaged header happens to say.
      if (error.reason() != Reason::kWeights) throw;
      malformed = error;
    }
    hashed.skip_to_end();
    if (std::string found = hashed.hex(); found != expected.sha256) {
      throw Refused(Reason::kChecksum, shown + ": sha256 is " + found + "; the manifest says " + expected.sha256);
    }
    if (malformed) throw *malformed;
  } catch (const std::bad_alloc&) {
    throw Refused(Reason::kIo,
                  shown + ": not enough memory for " + std::to_string(expected.bytes) + " bytes of weights");
  }
}

}  // namespace smt::server
