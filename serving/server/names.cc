#include "names.h"

#include <algorithm>
#include <cstdint>
#include <numeric>

namespace smt::server {
namespace {

constexpr size_t kMaxName = 64;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }

// Length of the well-formed UTF-8 sequence that starts `text`, or 0.
size_t utf8_length(std::string_view text) {
  auto lead = static_cast<unsigned char>(text[0]);
  size_t length = lead < 0x80 ? 1 : (lead >> 5) == 0x6 ? 2 : (lead >> 4) == 0xe ? 3 : (lead >> 3) == 0x1e ? 4 : 0;
  if (length == 0 || length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) return 0;
  }
  return length;
}

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row.back();
}

}  // namespace

bool valid_name(std::string_view text) {
  return !text.empty() && text.size() <= kMaxName && std::all_of(text.begin(), text.end(), [](char c) {
    return is_lower(c) || is_digit(c) || c == '_' || c == '-';
  });
}

bool valid_version(std::string_view text) {
  return !text.empty() && text.size() <= kMaxName && std::all_of(text.begin(), text.end(), [](char c) {
    return is_lower(c) || is_upper(c) || is_digit(c) || c == '_' || c == '-';
  });
}

bool valid_hex(std::string_view text, size_t digits) {
  return text.size() == digits &&
         std::all_of(text.begin(), text.end(), [](char c) { return is_digit(c) || (c >= 'a' && c <= 'f'); });
}

std::string in_quotes(std::string_view text, size_t max) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out = "'";
  size_t at = 0;
  while (at < text.size() && at < max) {
    size_t length = utf8_length(text.substr(at));
    auto byte = static_cast<unsigned char>(text[at]);
    if (length == 0 || byte < 0x20 || byte == 0x7f) {
      out += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
      at += 1;
    } else {
      out.append(text.substr(at, length));
      at += length;
    }
  }
  out += at < text.size() ? "'... (" + std::to_string(text.size()) + " bytes)" : "'";
  return out;
}

std::string shortened(std::string_view message, size_t max) {
  if (message.size() <= max) return std::string(message);
  constexpr std::string_view kCut = " [...] ";
  size_t head = (max - kCut.size()) * 2 / 3;
  size_t tail = message.size() - (max - kCut.size() - head);
  while (head > 0 && is_continuation(message[head])) --head;
  while (tail < message.size() && is_continuation(message[tail])) ++tail;
  return std::string(message.substr(0, head)).append(kCut).append(message.substr(tail));
}

std::vector<std::string> nearest(std::string_view wanted, std::span<const std::string> names, size_t count) {
  wanted = wanted.substr(0, 2 * kMaxName);  // bounds the work: a client chooses this text
  std::vector<std::pair<size_t, const std::string*>> order;
  order.reserve(names.size());
  for (const std::string& name : names) order.emplace_back(edit_distance(wanted, name), &name);
  count = std::min(count, order.size());
  auto before = [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first < b.first : *a.second < *b.second;
  };
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), before);
  std::vector<std::string> out;
  for (size_t i = 0; i < count; ++i) out.push_back(*order[i].second);
  return out;
}

std::string joined(std::span<const std::string> names) {
  if (names.empty()) return "none";
  std::string out;
  for (const std::string& name : names) {
    if (!out.empty()) out += ", ";
    out += name;
  }
  return out;
}

}  // namespace smt::server
