// Wording shared by the errors of this op.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace smt::transform {

// 'text' in single quotes: control characters and invalid UTF-8 escaped as \xNN, cut after 64 bytes. Names come from
// clients, so a message built from one must stay short, printable and valid UTF-8.
std::string quote(std::string_view text);

// "feature 'NAME'", the start of every message about one feature.
std::string feature(std::string_view name);

// "did you mean 'a' or 'b'?" when some of `known` are near `name`, else "expected one of 'a', 'b', ...".
std::string suggest(std::string_view name, std::span<const std::string_view> known);

}  // namespace smt::transform
