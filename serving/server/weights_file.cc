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

constexpr size_t kChunk = size_t{1} << 20;

void check_size(uint64_t found, const FileEntry& expected, const std::string& shown) {
  if (found == expected.bytes) return;
  throw Refused(Reason::kChecksum,
                shown + ": " + std::to_string(found) + " bytes; the manifest says " + std::to_string(expected.bytes));
}

// A file read front to back, every byte of it through the digest.
class HashedFile {
 public:
  HashedFile(InputFile& file, std::stop_token stop) : file_(file), stop_(std::move(stop)) {}

  // Fills `out` completely, or throws Refused(kChecksum): the file is shorter than its size promised.
  void read(std::span<std::byte> out) {
    while (!out.empty()) {
      if (stop_.stop_requested()) throw Refused(Reason::kIo, file_.shown() + ": loading was interrupted by shutdown");
      size_t wanted = std::min(out.size(), kChunk);
      if (file_.read(out.first(wanted)) != wanted) {
        throw Refused(Reason::kChecksum, file_.shown() + ": the file became shorter while it was read");
      }
      digest_.update(out.first(wanted));
      left_ -= wanted;
      out = out.subspan(wanted);
    }
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

Weights allocate(const SafetensorsHeader& header, const std::string& shown) {
  Weights weights;
  bool slab = false;
  bool table = false;
  for (const TensorInfo& tensor : header.tensors) {
    if (tensor.name == "slab") {
      check_tensor(tensor, 1, shown);
      weights.slab = AlignedArray<float>((tensor.end - tensor.begin) / sizeof(float));
      slab = true;
    } else if (tensor.name == "table") {
      check_tensor(tensor, 2, shown);
      weights.table = AlignedArray<float>((tensor.end - tensor.begin) / sizeof(float));
      weights.table_rows = tensor.shape[0];
      weights.dim = tensor.shape[1];
      table = true;
    } else {
      throw Refused(Reason::kWeights, shown + ": tensor " + quote(tensor.name) + ": expected only 'slab' and 'table'");
    }
  }
  if (!slab || !table) {
    throw Refused(Reason::kWeights, shown + ": no tensor '" + (slab ? "table" : "slab") + "' in the file");
  }
  return weights;
}

void check_finite(std::string_view tensor, std::span<const float> values, const std::string& shown) {
  constexpr uint32_t kExponent = 0x7f800000;  // all ones: infinity or NaN
  for (size_t begin = 0; begin < values.size(); begin += kChunk) {
    size_t end = std::min(values.size(), begin + kChunk);
    bool finite = true;
    for (size_t i = begin; i < end; ++i) {
      uint32_t bits = 0;
      std::memcpy(&bits, &values[i], sizeof bits);
      finite &= (bits & kExponent) != kExponent;
    }
    for (size_t i = begin; !finite && i < end; ++i) {
      uint32_t bits = 0;
      std::memcpy(&bits, &values[i], sizeof bits);
      if ((bits & kExponent) == kExponent) {
        throw Refused(Reason::kWeights, shown + ": tensor '" + std::string(tensor) + "': element " + std::to_string(i) +
                                            " is not finite; expected finite weights");
      }
    }
  }
}

}  // namespace

Weights read_weights(const std::filesystem::path& path, const std::string& shown, const FileEntry& expected,
                     std::stop_token stop) {
  try {
    InputFile file(path, shown);
    check_size(file.size(), expected, shown);
    HashedFile hashed(file, std::move(stop));
    Weights weights;
    std::optional<Refused> malformed;
    try {
      std::vector<std::byte> head(std::min(kSafetensorsPrefix, file.size()));
      hashed.read(head);
      uint64_t length = safetensors_header_bytes(head, file.size(), shown);
      head.resize(kSafetensorsPrefix + length);
      hashed.read(std::span(head).subspan(kSafetensorsPrefix));
      SafetensorsHeader header = parse_safetensors(head, file.size(), shown);
      weights = allocate(header, shown);
      for (const TensorInfo& tensor : header.tensors) {
        hashed.read(std::as_writable_bytes((tensor.name == "slab" ? weights.slab : weights.table).values()));
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
    check_finite("slab", weights.slab.values(), shown);
    check_finite("table", weights.table.values(), shown);
    return weights;
  } catch (const std::bad_alloc&) {
    throw Refused(Reason::kIo,
                  shown + ": not enough memory for " + std::to_string(expected.bytes) + " bytes of weights");
  }
}

}  // namespace smt::server
