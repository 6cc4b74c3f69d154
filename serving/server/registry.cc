#include "registry.h"

#include <algorithm>
#include <system_error>

#include "file_io.h"
#include "json_fields.h"
#include "names.h"
#include "refusal.h"

namespace smt::server {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxPointerBytes = 4096;
constexpr const char* kTarget = "cpu";

// nullopt: no such file. Throws Refused: kPointer for a file that cannot be a pointer, kIo.
std::optional<std::string> read_pointer(const fs::path& path, const std::string& shown) {
  try {
    return read_text(path, shown, kMaxPointerBytes);
  } catch (const Missing&) {
    return std::nullopt;
  } catch (const Refused& error) {
    throw Refused(error.reason() == Reason::kIo ? Reason::kIo : Reason::kPointer, error.what());
  }
}

// Folder names in `dir`, sorted; `error` is set when the folder cannot be read.
std::vector<std::string> folders(const fs::path& dir, std::error_code& error) {
  std::vector<std::string> names;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (it->is_directory(ignored)) names.push_back(it->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

std::vector<std::string> Registry::scenarios(std::vector<std::string>& ignored) const {
  std::error_code error;
  fs::path dir = root_ / "scenarios";
  std::vector<std::string> names;
  for (std::string& name : folders(dir, error)) {
    if (name.starts_with('.')) continue;
    (valid_name(name) ? names : ignored).push_back(std::move(name));
  }
  // A registry in which nothing was published yet has no such folder; a root that went away is a failure.
  if (error == std::errc::no_such_file_or_directory && fs::exists(root_, error)) return {};
  if (error) throw Refused(Reason::kIo, shown(dir) + ": cannot list: " + error.message());
  return names;
}

bool Registry::has(const std::string& scenario) const {
  std::error_code ignored;
  return fs::is_directory(scenario_dir(scenario), ignored);
}

std::optional<std::string> Registry::current(const std::string& scenario) const {
  fs::path path = current_file(scenario);
  std::optional<std::string> text = read_pointer(path, shown(path));
  if (!text) return std::nullopt;
  std::string_view version = *text;
  while (!version.empty() && (version.back() == '\n' || version.back() == '\r' || version.back() == ' ')) {
    version.remove_suffix(1);
  }
  if (!valid_version(version)) {
    throw Refused(Reason::kPointer,
                  shown(path) + ": found " + quote(*text) + "; expected a version of 1..64 characters A-Z a-z 0-9 _ -");
  }
  return std::string(version);
}

std::optional<NextVersion> Registry::next(const std::string& scenario) const {
  std::optional<std::string> text;
  try {
    fs::path path = next_file(scenario);
    text = read_pointer(path, shown(path));
  } catch (const Refused&) {
  }
  if (!text) return std::nullopt;
  const size_t space = text->find(' ');
  const size_t end = text->find('\n');
  if (space == std::string::npos || end == std::string::npos || end < space) return std::nullopt;
  const std::string version = text->substr(0, space);
  // A folder of versions/ that is being written starts with a dot, and then is like a version.
  const std::string folder = text->substr(space + 1, end - space - 1);
  if (!valid_version(version) || !folder.starts_with('.') || !valid_version(folder.substr(1))) return std::nullopt;
  return NextVersion{.version = version, .folder = snapshot_dir(scenario, folder)};
}

std::optional<Label> Registry::label(const std::string& scenario, std::string_view name) const {
  fs::path path = label_file(scenario, name);
  std::optional<std::string> text = read_pointer(path, shown(path));
  if (!text) return std::nullopt;
  try {
    nlohmann::json json = parse_json(*text, shown(path));
    Fields fields(json, shown(path));
    Label label{.version = fields.version("version")};
    const nlohmann::json& percent = fields.value("percent");
    if (!percent.is_number() || !(percent.get<double>() > 0 && percent.get<double>() <= 100)) {
      fields.fail("percent", &percent, "a number above 0 and at most 100");
    }
    label.percent = percent.get<double>();
    return label;
  } catch (const Refused& error) {
    throw Refused(Reason::kPointer, error.what());
  }
}

fs::path Registry::scenario_dir(const std::string& scenario) const { return root_ / "scenarios" / scenario; }

fs::path Registry::current_file(const std::string& scenario) const { return scenario_dir(scenario) / "current"; }

fs::path Registry::next_file(const std::string& scenario) const { return scenario_dir(scenario) / "next"; }

fs::path Registry::label_file(const std::string& scenario, std::string_view name) const {
  return scenario_dir(scenario) / "labels" / name;
}

std::vector<std::string> Registry::abi_hashes(const std::string& template_name) const {
  std::error_code error;
  return folders(root_ / "templates" / template_name, error);
}

fs::path Registry::snapshot_dir(const std::string& scenario, const std::string& version) const {
  return scenario_dir(scenario) / "versions" / version;
}

fs::path Registry::binary_dir(const std::string& template_name, const std::string& abi_hash) const {
  return root_ / "templates" / template_name / abi_hash / kTarget;
}

std::string Registry::shown(const fs::path& path) const {
  return path == root_ ? "." : path.lexically_relative(root_).string();
}

}  // namespace smt::server
