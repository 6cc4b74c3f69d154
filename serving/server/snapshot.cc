#include "snapshot.h"

namespace smt::server {

HeldBytes LoadedSnapshot::held_bytes() const {
  HeldBytes held{.own = weight_bytes(), .shared = {}};
  auto share = [&](const PoolRange& range) {
    held.own -= range.bytes();
    held.shared.push_back({&range, range.bytes()});
  };
  if (weights.range()) share(*weights.range());
  if (overlay) {
    for (const auto& range : overlay->ranges()) share(*range);
  }
  return held;
}

}  // namespace smt::server
