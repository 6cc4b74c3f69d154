#include "messages.h"

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace smt::transform {
namespace {

constexpr size_t kLongestName = 64;  // beyond it, names are not compared
constexpr size_t kListLimit = 20;
constexpr size_t kNearLimit = 3;

}  // namespace

std::string feature(std::string_view name) { return "feature " + quote(name); }

std::string suggest(std::string_view name, std::span<const std::string_view> known) {
  std::vector<std::pair<size_t, size_t>> near;  // (distance, position)
  if (name.size() <= kLongestName) {
    const size_t reach = std::max<size_t>(1, name.size() / 3);
    for (size_t i = 0; i < known.size(); ++i) {
      if (known[i].size() > kLongestName) continue;
      const size_t distance = edit_distance(name, known[i]);
      if (distance <= reach) near.emplace_back(distance, i);
    }
  }
  std::sort(near.begin(), near.end());
  std::string out;
  if (!near.empty()) {
    out = "did you mean ";
    for (size_t i = 0; i < std::min(near.size(), kNearLimit); ++i) {
      if (i > 0) out += " or ";
      out += quote(known[near[i].second]);
    }
    return out + "?";
  }
  out = "expected one of ";
  for (size_t i = 0; i < std::min(known.size(), kListLimit); ++i) {
    if (i > 0) out += ", ";
    out += quote(known[i]);
  }
  if (known.size() > kListLimit) out += " and " + std::to_string(known.size() - kListLimit) + " more";
  return out;
}

}  // namespace smt::transform
