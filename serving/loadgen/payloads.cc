#include "payloads.h"

#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "plan.h"

namespace smt::loadgen {

static_assert(std::endian::native == std::endian::little, "the payload file is read as it lies");

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw PlanError(path.string() + ": " + std::strerror(errno));
  std::string content{std::istreambuf_iterator<char>(file), {}};
  if (file.bad()) throw PlanError(path.string() + ": cannot be read");
  return content;
}

Payloads::Payloads(const std::filesystem::path& path) : content_(read_file(path)) {
  constexpr size_t kHead = 8;
  constexpr size_t kPrefix = 5;
  for (size_t at = 0; at < content_.size();) {
    uint32_t size = 0;
    uint32_t rows = 0;
    std::string where = path.string() + ": record " + std::to_string(payloads_.size());
    if (content_.size() - at < kHead) throw PlanError(where + ": found the file's end; expected its size and rows");
    std::memcpy(&size, &content_[at], sizeof size);
    std::memcpy(&rows, &content_[at + sizeof size], sizeof rows);
    if (content_.size() - at - kHead < size) {
      throw PlanError(where + ": found the file's end; expected " + std::to_string(size) + " bytes");
    }
    // The prefix takes the last bytes of the head: not compressed, and the size, most significant byte first.
    char* prefix = &content_[at + kHead - kPrefix];
    prefix[0] = 0;
    for (int byte = 0; byte < 4; ++byte) prefix[1 + byte] = static_cast<char>(size >> (24 - 8 * byte));
    payloads_.push_back({prefix, static_cast<uint32_t>(size + kPrefix), rows});
    at += kHead + size;
  }
  if (payloads_.empty()) throw PlanError(path.string() + ": found no record; expected at least one");
}

}  // namespace smt::loadgen
