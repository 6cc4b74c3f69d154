#include "label_routes.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace smt::server {

double label_position(std::string_view scenario, std::string_view key) {
  const uint64_t seed = XXH3_64bits(scenario.data(), scenario.size());
  const uint64_t hash = XXH3_64bits_withSeed(key.data(), key.size(), seed);
  return static_cast<double>(hash >> 11) * 0x1p-53 * 100;
}

}  // namespace smt::server
