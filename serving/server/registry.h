// The registry's layout on a local file system. serving/registry.py is the writer.
//
//   <root>/templates/<name>/<abi_hash>/<target>/{manifest.json, model.pt2}
//   <root>/scenarios/<scenario>/versions/<version>/{manifest.json, manifest.sha256, weights.safetensors}
//   <root>/scenarios/<scenario>/current        "<version>\n", replaced atomically
//   <root>/scenarios/<scenario>/next           "<version> <folder>\n" while a version is published, replaced atomically
//   <root>/scenarios/<scenario>/labels/{canary,shadow}  {"version", "percent"}, replaced atomically; absent: none
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace smt::server {

// What a label of a scenario names: a version, and the share of the requests that it is for.
struct Label {
  std::string version;
  double percent = 0;  // above 0, at most 100

  bool operator==(const Label&) const = default;
};
// What is being published, and where its files lie before they are versions/<version>.
struct NextVersion {
  std::string version;
  std::filesystem::path folder;
};
inline constexpr std::string_view kStable = "stable";  // the label of what `current` names
inline constexpr std::string_view kCanary = "canary";
inline constexpr std::string_view kShadow = "shadow";

// Stateless but for the root; thread-safe.
class Registry {
 public:
  explicit Registry(std::filesystem::path root) : root_(std::move(root)) {}

  // Names of the folders under scenarios/, sorted; folders whose name is no scenario name go to `ignored` (those that
  // start with '.' are work in progress of a publisher and are skipped). A missing scenarios/ gives an empty list.
  // Throws Refused(kIo).
  std::vector<std::string> scenarios(std::vector<std::string>& ignored) const;

  // Whether there is a folder of a scenario's, published or not. `scenario` is a valid name. Never throws.
  bool has(const std::string& scenario) const;

  // The version that `current` names; nullopt when there is no such file.
  // Throws Refused: kPointer when it holds something else than a version, kIo.
  std::optional<std::string> current(const std::string& scenario) const;

  // What `next` says; nullopt when there is no such file, or it cannot be read: it is a hint.
  std::optional<NextVersion> next(const std::string& scenario) const;

  // What labels/<name> holds; nullopt when there is no such file.
  // Throws Refused: kPointer when it is not a label, kIo.
  std::optional<Label> label(const std::string& scenario, std::string_view name) const;

  std::filesystem::path scenario_dir(const std::string& scenario) const;
  std::filesystem::path current_file(const std::string& scenario) const;
  std::filesystem::path next_file(const std::string& scenario) const;
  std::filesystem::path label_file(const std::string& scenario, std::string_view name) const;

  // ABI hashes for which the template has a folder, sorted. Never throws.
  std::vector<std::string> abi_hashes(const std::string& template_name) const;

  std::filesystem::path snapshot_dir(const std::string& scenario, const std::string& version) const;
  std::filesystem::path binary_dir(const std::string& template_name, const std::string& abi_hash) const;

  // `path` relative to the root, for messages: clients read them, and need no absolute paths.
  std::string shown(const std::filesystem::path& path) const;
  const std::filesystem::path& root() const { return root_; }

 private:
  std::filesystem::path root_;
};

}  // namespace smt::server
