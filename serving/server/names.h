// Names in the registry and in requests, and how messages show them.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text.h"

namespace smt::server {

// [a-z0-9_-]{1,64}: scenarios and templates.
bool valid_name(std::string_view text);
// [A-Za-z0-9_-]{1,64}: snapshot versions. Excludes '/', '.' and so everything that could leave a directory.
bool valid_version(std::string_view text);
// Exactly `digits` lower-case hex digits.
bool valid_hex(std::string_view text, size_t digits);
// Two such digits a byte.
std::string hex_of(std::span<const std::byte> bytes);

using transform::quote;

// The message printable and valid UTF-8, and if long cut in the middle (between characters), so that its start and its
// end survive. A gRPC status message travels in HTTP/2 trailers, which clients limit to 8 KiB, percent-encoded: up to
// three bytes per byte.
std::string shortened(std::string_view message, size_t max = 1024);

// At most `count` of `names`, nearest to `wanted` in edit distance first. `wanted` may be of any length.
std::vector<std::string> nearest(std::string_view wanted, std::span<const std::string> names, size_t count = 10);

// "a, b, c"; an empty list gives "none".
std::string joined(std::span<const std::string> names);

}  // namespace smt::server
