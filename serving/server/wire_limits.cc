#include "wire_limits.h"

#include <algorithm>

namespace smt::server {
namespace {

constexpr int64_t kMaxFeatures = 4096;
constexpr int64_t kFieldsPerRow = 256;
constexpr int64_t kFewestRows = 4096;  // a small --max-rows does not forbid a few rows with long lists

}  // namespace

WireLimits wire_limits(int64_t max_rows) {
  return {.features = kMaxFeatures, .fields = kFieldsPerRow * std::max(max_rows, kFewestRows)};
}

std::string too_many_fields(const WireLimits& limits) {
  return "the message has more than " + std::to_string(limits.fields) +
         " fields, the server's max_fields (each string of a list is one, a packed list of numbers one in all); send "
         "fewer candidates";
}

std::string too_many_features(const WireLimits& limits, const std::string& where) {
  return where + ": more than " + std::to_string(limits.features) +
         " features; expected each of the scenario's inputs once";
}

}  // namespace smt::server
