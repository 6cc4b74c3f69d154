// Reads a snapshot's weights.safetensors: verified, in one pass over the file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>

#include "manifest.h"
#include "pace.h"

namespace smt::server {

// What the file's header says, before anything is verified.
struct WeightShapes {
  int64_t slab_elements = 0;
  int64_t table_rows = 0;
  int64_t dim = 0;
};
// Where the tensors go: both of exactly the size that the header says.
struct WeightPlaces {
  std::span<float> slab;   // [slab_elements]
  std::span<float> table;  // [table_rows, dim], row-major
};
// Finds the places. Throws Refused(kWeights) for shapes that do not fit; that is reported unless the file proves
// damaged.
using PlaceWeights = std::function<WeightPlaces(const WeightShapes&)>;

// Reads both tensors to where `place` says; it is called at most once. What lies there after an exception is
// unspecified. Throws Refused: kChecksum when size or digest differ from `expected` (whatever else is wrong with the
// file), kWeights when tensors are missing, superfluous, of another type or rank, or hold values that are not finite;
// kIo when reading fails, when memory does not suffice, or when it is to stop; and what `place` throws.
void read_weights(const std::filesystem::path& path, const std::string& shown, const FileEntry& expected,
                  const PlaceWeights& place, Reading reading = {});

}  // namespace smt::server
