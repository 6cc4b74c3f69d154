// Reads a snapshot's delta.safetensors: the dense weights, and the rows of the table that differ from its base's.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "manifest.h"
#include "pace.h"

namespace smt::server {

// What the file's header says, before anything is verified.
struct DeltaShapes {
  int64_t slab_elements = 0;
  int64_t rows = 0;  // that changed
  int64_t dim = 0;
};
// Where the tensors go: both of exactly the size that the header says.
struct DeltaPlaces {
  std::span<float> slab;    // [slab_elements]
  std::span<float> values;  // [rows, dim], row-major
};
// As PlaceWeights.
using PlaceDelta = std::function<DeltaPlaces(const DeltaShapes&)>;

// Reads slab and values to where `place` says, and returns which rows of the table the values are: strictly increasing,
// none of them negative. As read_weights() in everything else; the tensors are slab [elements] F32, rows [n] U32 or
// I64, values [n, dim] F32.
std::vector<int64_t> read_delta(const std::filesystem::path& path, const std::string& shown, const FileEntry& expected,
                                const PlaceDelta& place, Reading reading = {});

}  // namespace smt::server
