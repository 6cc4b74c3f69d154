// How much memory this process may fill with weights.
#pragma once

#include <cstdint>
#include <filesystem>

namespace smt::server {

// The machine's memory, or the least limit of this process's cgroups (v2 and v1) if that is less, minus a reserve for
// all else: an eighth of it, at least 256 MiB. Bytes; at least 64 MiB.
int64_t default_memory_limit(const std::filesystem::path& proc = "/proc",
                             const std::filesystem::path& cgroup_root = "/sys/fs/cgroup");

}  // namespace smt::server
