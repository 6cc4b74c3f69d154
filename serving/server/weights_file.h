// Reads a snapshot's weights.safetensors: verified, in one pass over the file.
#pragma once

#include <filesystem>
#include <stop_token>
#include <string>

#include "aligned_array.h"
#include "manifest.h"

namespace smt::server {

struct Weights {
  AlignedArray<float> slab;   // [slab_elements]
  AlignedArray<float> table;  // [table_rows, dim], row-major
  int64_t table_rows = 0;
  int64_t dim = 0;
};

// Throws Refused: kChecksum when size or sha256 differ from `expected` (whatever else is wrong with the file),
// kWeights when tensors are missing, superfluous, of another type or rank, or hold values that are not finite;
// kIo when reading fails, when memory does not suffice, or when `stop` is requested.
Weights read_weights(const std::filesystem::path& path, const std::string& shown, const FileEntry& expected,
                     std::stop_token stop = {});

}  // namespace smt::server
