// Wording shared by the errors of this op.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "text.h"

namespace smt::transform {

// "feature 'NAME'", the start of every message about one feature.
std::string feature(std::string_view name);

// "did you mean 'a' or 'b'?" when some of `known` are near `name`, else "expected one of 'a', 'b', ...".
std::string suggest(std::string_view name, std::span<const std::string_view> known);

}  // namespace smt::transform
