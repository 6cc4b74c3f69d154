#include "request_arena.h"

#include <algorithm>

namespace smt::server {
namespace {

constexpr size_t kBeside = 1024;  // the answer, and pieces that are not filled
constexpr size_t kLargestBlock = size_t{256} << 10;

}  // namespace

google::protobuf::ArenaOptions request_arena(size_t request_bytes) {
  google::protobuf::ArenaOptions options;
  // Strings and columns take about twice their size on the wire: one block for most requests.
  options.start_block_size = std::min(2 * request_bytes + request_bytes / 8 + kBeside, kLargestBlock);
  options.max_block_size = kLargestBlock;
  return options;
}

}  // namespace smt::server
