// JSON documents from files that others wrote: FeatureSpecs, and the server's manifests.
#pragma once

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>

namespace smt::transform {

// The message is printable, valid UTF-8 and short; it does not name the document.
class JsonError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Parses a whole document. Throws JsonError for what is not JSON (also: text that is not UTF-8, numbers that a double
// cannot hold), for nesting deeper than 64 (recursive consumers could overflow the stack) and for an object that names
// a key twice (two readers could take different values from it).
nlohmann::json parse_json(std::string_view text);

}  // namespace smt::transform
