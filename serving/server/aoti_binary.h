// Template binaries compiled by AOTInductor, run with libtorch. This header is free of torch (pimpl): torch's include
// folder carries an old protobuf, so no translation unit may include both.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>

#include "template_binary.h"

namespace smt::server {

// Loads `dir`/model.pt2. Refuses (kBinary) an instruction set that this CPU lacks, another kernel version than this
// server's, another torch minor version than the one linked, what TemplateBinary refuses, and a package that does not
// load.
// `instances`: how many threads may be inside run() at once without waiting for each other.
std::shared_ptr<const TemplateBinary> open_aoti_binary(const std::filesystem::path& dir, const std::string& shown,
                                                       BinaryManifest manifest, size_t instances);

// Call on every thread that runs binaries, before the first: torch computes on the calling thread alone (each thread
// would grow its own OpenMP pool), and may use AMX where there is one.
void prepare_compute_thread();

}  // namespace smt::server
