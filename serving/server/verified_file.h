// Reads a safetensors file of weights: every byte once, through the digest, and no value that is not finite.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "file_digest.h"
#include "file_io.h"
#include "manifest.h"
#include "pace.h"
#include "safetensors.h"

namespace smt::server {

// A file read front to back, every byte of it through the digest.
class VerifiedFile {
 public:
  // `file` and `expected` must outlive it.
  VerifiedFile(InputFile& file, const FileEntry& expected, Reading reading)
      : file_(file), reading_(std::move(reading)), digest_(expected) {}

  // Fills `out` completely, or throws Refused: kChecksum, the file is shorter than its size promised; kIo. `look` is
  // called with each part as soon as it is there, and still in the core's cache.
  void read(std::span<std::byte> out, const std::function<void(std::span<const std::byte>)>& look = {});
  // The same for the floats of a tensor. Throws Refused(kWeights) for one that is not finite.
  void read_finite(std::span<float> out, std::string_view tensor);

  void skip_to_end();
  // After the whole file. Throws Refused(kChecksum).
  void check() { digest_.check(shown()); }
  const std::string& shown() const { return file_.shown(); }

 private:
  InputFile& file_;
  const Reading reading_;
  FileDigest digest_;
  uint64_t left_ = file_.size();
};

// Reads the tensors of `header`, in the order in which they lie there, each of them whole.
using ReadTensors = std::function<void(VerifiedFile& file, const SafetensorsHeader& header)>;

// Opens a file, reads its header, has `tensors` read the rest, and compares size and digest with `expected`. Throws
// Refused: kChecksum when they differ, whatever else is wrong with the file; kWeights for a malformed header; kIo when
// reading fails, when memory does not suffice, or when it is to stop; and what `tensors` throws (a kWeights of
// its own is reported unless the file proves damaged).
void read_verified(const std::filesystem::path& path, const std::string& shown, const FileEntry& expected,
                   const ReadTensors& tensors, Reading reading);

// Throws Refused(kWeights) unless the tensor is of that type and has so many dimensions.
void expect_tensor(const TensorInfo& tensor, std::string_view dtype, size_t rank, const std::string& shown);

}  // namespace smt::server
