#include "messages.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace smt::transform {
namespace {

constexpr size_t kQuoteLimit = 64;
constexpr size_t kListLimit = 20;
constexpr size_t kNearLimit = 3;

// Bytes of the valid UTF-8 sequence at the start of `text`, 0 if there is none (RFC 3629: no surrogates, no overlongs).
size_t utf8_sequence(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  size_t size = 0;
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    size = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    size = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    size = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return 0;
  }
  if (text.size() < size || byte(1) < low || byte(1) > high) return 0;
  for (size_t i = 2; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  return size;
}

// Levenshtein distance in bytes of two short strings.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::array<size_t, kQuoteLimit + 1> row;
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t substituted = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({substituted, row[j] + 1, diagonal + 1});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string quote(std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out = "'";
  size_t i = 0;
  while (i < text.size()) {
    const size_t size = utf8_sequence(text.substr(i));
    const auto byte = static_cast<uint8_t>(text[i]);
    if (i + std::max<size_t>(size, 1) > kQuoteLimit) break;
    if (size == 0 || byte < 0x20 || byte == 0x7F) {
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
      i += 1;
    } else {
      out += text.substr(i, size);
      i += size;
    }
  }
  out += '\'';
  if (i < text.size()) out += " (cut, " + std::to_string(text.size()) + " bytes)";
  return out;
}

std::string feature(std::string_view name) { return "feature " + quote(name); }

std::string suggest(std::string_view name, std::span<const std::string_view> known) {
  std::vector<std::pair<size_t, size_t>> near;  // (distance, position)
  if (name.size() <= kQuoteLimit) {
    const size_t reach = std::max<size_t>(1, name.size() / 3);
    for (size_t i = 0; i < known.size(); ++i) {
      if (known[i].size() > kQuoteLimit) continue;
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
