#include "memory_limit.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

namespace smt::server {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMebibyte = 1 << 20;

// The number in a file that says a limit; `most` for none ("max") and where there is no such file.
int64_t limit_in(const fs::path& file, int64_t most) {
  std::ifstream in(file);
  int64_t bytes = 0;
  return in >> bytes && bytes > 0 ? std::min(bytes, most) : most;
}

// The least limit of a folder and of those above it.
int64_t least_limit(fs::path folder, const fs::path& root, const char* file, int64_t most) {
  for (;; folder = folder.parent_path()) {
    most = limit_in(folder / file, most);
    if (folder == root || folder.empty() || folder == folder.root_path()) return most;
  }
}

}  // namespace

int64_t default_memory_limit(const fs::path& proc, const fs::path& cgroup_root) {
  int64_t memory = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  // Lines such as "0::/a/b" (v2) and "4:memory:/a/b" (v1). In a container the path is often not visible from inside:
  // then the root's files are the container's own.
  std::ifstream groups(proc / "self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const fs::path path = fs::path(line.substr(second + 1)).relative_path();
    if (controllers.empty()) {
      memory = least_limit(cgroup_root / path, cgroup_root, "memory.max", memory);
    } else if (("," + controllers + ",").find(",memory,") != std::string::npos) {
      const fs::path root = cgroup_root / "memory";
      memory = least_limit(root / path, root, "memory.limit_in_bytes", memory);
    }
  }
  return std::max(memory - std::max(memory / 8, 256 * kMebibyte), 64 * kMebibyte);
}

}  // namespace smt::server
