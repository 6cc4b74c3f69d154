#include "names.h"

#include <algorithm>
#include <utility>

namespace smt::server {
namespace {

constexpr size_t kMaxName = 64;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

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

std::string hex_of(std::span<const std::byte> bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * bytes.size());
  for (std::byte byte : bytes) {
    text.push_back(kDigits[std::to_integer<int>(byte) >> 4]);
    text.push_back(kDigits[std::to_integer<int>(byte) & 15]);
  }
  return text;
}

std::string shortened(std::string_view raw, size_t max) {
  std::string message = transform::printable(raw);
  if (message.size() <= max) return message;
  constexpr std::string_view kCut = " [...] ";
  size_t head = (max - kCut.size()) * 2 / 3;
  size_t tail = message.size() - (max - kCut.size() - head);
  while (head > 0 && is_continuation(message[head])) --head;
  while (tail < message.size() && is_continuation(message[tail])) ++tail;
  return message.substr(0, head).append(kCut).append(message, tail);
}

std::vector<std::string> nearest(std::string_view wanted, std::span<const std::string> names, size_t count) {
  wanted = wanted.substr(0, 2 * kMaxName);  // bounds the work: a client chooses this text
  std::vector<std::pair<size_t, const std::string*>> order;
  order.reserve(names.size());
  for (const std::string& name : names) order.emplace_back(transform::edit_distance(wanted, name), &name);
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
