#include "json_text.h"

#include <set>
#include <string>
#include <vector>

#include "text.h"

namespace smt::transform {
namespace {

constexpr int kMaxDepth = 64;
constexpr size_t kMaxReason = 300;  // of the parser's text, which shows all of a bad token

}  // namespace

nlohmann::json parse_json(std::string_view text) {
  using nlohmann::json;
  std::vector<std::set<std::string, std::less<>>> keys;  // of the objects that are open
  const auto on_event = [&keys](int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxDepth) throw JsonError("nested deeper than " + std::to_string(kMaxDepth) + " levels");
    if (event == json::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.back().insert(key).second) {
        throw JsonError("key " + quote(key) + " appears twice in one object; expected once");
      }
    }
    return true;
  };
  // To the parser a NUL byte is the end, whatever comes behind it.
  if (size_t at = text.find('\0'); at != std::string_view::npos) {
    throw JsonError("not valid JSON: NUL byte at position " + std::to_string(at));
  }
  try {
    return json::parse(text.begin(), text.end(), on_event);
  } catch (const json::exception& error) {
    // Shows the last bytes read as they are. Cut before escaping, so that no escape and no character is cut.
    throw JsonError("not valid JSON: " + printable(std::string_view(error.what()).substr(0, kMaxReason)));
  }
}

}  // namespace smt::transform
