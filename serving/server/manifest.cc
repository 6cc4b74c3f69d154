#include "manifest.h"

#include <time.h>

#include <cstdio>
#include <set>

#include "json_fields.h"
#include "names.h"
#include "refusal.h"

namespace smt::server {
namespace {

// Largest count of anything: products of two of them and of an element size stay inside int64.
constexpr int64_t kMaxCount = int64_t{1} << 40;
constexpr int64_t kMaxSlots = 1 << 16;
constexpr int64_t kMaxTasks = 1024;
constexpr size_t kMaxProgram = size_t{1} << 16;
constexpr int64_t kBinaryFormat = 2;
// Of snapshots: 1 is whole, 2 is a delta.
constexpr int64_t kSnapshotFormats = 2;
constexpr int64_t kDeltaFormat = 2;

FileEntry file_entry(const Fields& files, const std::string& name) {
  Fields entry = files.object(name);
  return {.name = name,
          .bytes = static_cast<uint64_t>(entry.integer("bytes", 1, kMaxCount)),
          .sha256 = entry.hex("sha256", 64),
          .xxh3 = entry.has("xxh3") ? entry.hex("xxh3", 32) : std::string()};
}

TemplateRef template_ref(const Fields& manifest) {
  Fields source = manifest.object("template");
  return {.name = source.name("name"), .version = source.text("version", 64)};
}

std::vector<Task> tasks_of(const Fields& manifest) {
  const nlohmann::json& list = manifest.array("tasks", kMaxTasks);
  if (list.empty()) manifest.fail("tasks", &list, "at least one task");
  std::vector<Task> tasks;
  std::set<std::string> names;
  std::set<int64_t> heads;
  for (size_t i = 0; i < list.size(); ++i) {
    Fields entry(list[i], manifest.file(), manifest.path_of("tasks[" + std::to_string(i) + "]"));
    Task task{.name = entry.text("name", 256), .head = entry.integer("head", 0, kMaxTasks - 1)};
    if (!names.insert(task.name).second) entry.fail("name", &entry.value("name"), "a name that no other task has");
    if (!heads.insert(task.head).second) entry.fail("head", &entry.value("head"), "a head that no other task has");
    tasks.push_back(std::move(task));
  }
  return tasks;
}

// What the server passes to, or takes from, the binary at one position. Dimension -1 must be dynamic (a name).
struct TensorRule {
  const char* name;
  const char* dtype;
  std::vector<int64_t> shape;
};

void check_tensor(const Fields& found, const TensorRule& rule) {
  if (found.text("name") != rule.name) found.fail("name", &found.value("name"), quote(rule.name));
  if (found.text("dtype") != rule.dtype) found.fail("dtype", &found.value("dtype"), quote(rule.dtype));
  const nlohmann::json& shape = found.array("shape", 8);
  if (shape.size() != rule.shape.size()) {
    found.fail("shape", &shape, std::to_string(rule.shape.size()) + " dimensions");
  }
  for (size_t i = 0; i < shape.size(); ++i) {
    std::string key = "shape[" + std::to_string(i) + "]";
    if (rule.shape[i] < 0) {
      if (!shape[i].is_string()) found.fail(key, &shape[i], "the name of a dynamic dimension");
    } else if (!shape[i].is_number_integer() || shape[i] != rule.shape[i]) {
      found.fail(key, &shape[i], std::to_string(rule.shape[i]));
    }
  }
}

void check_tensors(const Fields& manifest, const std::string& key, const std::vector<TensorRule>& rules) {
  const nlohmann::json& list = manifest.array(key, 64);
  if (list.size() != rules.size()) manifest.fail(key, &list, "an array of " + std::to_string(rules.size()));
  for (size_t i = 0; i < rules.size(); ++i) {
    std::string path = manifest.path_of(key + "[" + std::to_string(i) + "]");
    check_tensor(Fields(list[i], manifest.file(), path), rules[i]);
  }
}

std::string precision_of(const Fields& manifest) {
  std::string found = manifest.text("precision", 16);
  if (found != "fp32" && found != "bf16" && found != "int8") {
    manifest.fail("precision", &manifest.value("precision"), "'fp32', 'bf16' or 'int8'");
  }
  return found;
}

// Binaries made before there were two kinds do not say theirs.
BinaryKind kind_of(const Fields& manifest, const nlohmann::json& parsed) {
  if (!parsed.contains("kind")) return BinaryKind::kFused;
  std::string found = manifest.text("kind", 16);
  if (found == "fused") return BinaryKind::kFused;
  if (found == "views") return BinaryKind::kViews;
  manifest.fail("kind", &manifest.value("kind"), "'fused' or 'views'");
}

// The inputs of each kind, in the order in which AotiBinary passes them.
std::vector<TensorRule> inputs_of(const BinaryManifest& manifest) {
  std::vector<TensorRule> rules;
  if (manifest.kind == BinaryKind::kFused) {
    rules = {{"arena", "uint8", {-1, manifest.packed_bytes}},
             {"block_slot", "int32", {-1}},
             {"pool", "float32", {-1, manifest.dim}},
             {"pool_base", "int64", {-1}}};
  } else {
    rules = {{"slab", "float32", {manifest.slab_elements}}, {"table", "float32", {-1, manifest.dim}}};
  }
  rules.push_back({"dense", "float32", {-1, manifest.dense_slots}});
  rules.push_back({"ids", "int64", {-1}});
  rules.push_back({"offsets", "int64", {-1}});
  rules.push_back({"bag_index", "int64", {-1, manifest.categorical_slots}});
  return rules;
}

std::vector<int64_t> program_of(const Fields& manifest) {
  const nlohmann::json& list = manifest.array("program", kMaxProgram);
  std::vector<int64_t> program;
  program.reserve(list.size());
  for (const nlohmann::json& value : list) {
    if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX})) {
      manifest.fail("program[" + std::to_string(program.size()) + "]", &value, "an integer");
    }
    program.push_back(value.get<int64_t>());
  }
  return program;
}

}  // namespace

double parse_time(const std::string& text) {
  tm parts{};
  int used = 0;
  if (std::sscanf(text.c_str(), "%4d-%2d-%2d%*1[T ]%2d:%2d:%2d%n", &parts.tm_year, &parts.tm_mon, &parts.tm_mday,
                  &parts.tm_hour, &parts.tm_min, &parts.tm_sec, &used) != 6 ||
      used == 0) {
    return 0;
  }
  parts.tm_year -= 1900;
  parts.tm_mon -= 1;
  double seconds = static_cast<double>(timegm(&parts));
  const char* rest = text.c_str() + used;
  if (*rest == '.') {
    double unit = 0.1;
    for (++rest; *rest >= '0' && *rest <= '9'; ++rest, unit /= 10) seconds += unit * (*rest - '0');
  }
  int hours = 0;
  int minutes = 0;
  if ((*rest == '+' || *rest == '-') && std::sscanf(rest + 1, "%2d:%2d", &hours, &minutes) == 2) {
    seconds -= (*rest == '+' ? 1 : -1) * (hours * 3600 + minutes * 60);
  } else if (*rest != '\0' && std::string_view(rest) != "Z") {
    return 0;
  }
  return seconds;
}

SnapshotManifest parse_snapshot_manifest(std::string_view json, const std::string& file) {
  nlohmann::json parsed = parse_json(json, file);
  Fields fields(parsed, file);
  const bool delta = fields.integer("format", 1, kSnapshotFormats) == kDeltaFormat;
  SnapshotManifest manifest;
  manifest.scenario = fields.name("scenario");
  manifest.version = fields.version("version");
  manifest.source = template_ref(fields);
  manifest.abi_hash = fields.hex("abi_hash", 64);
  manifest.dim = fields.integer("dim", 1, 1 << 16);
  manifest.tasks = tasks_of(fields);
  fields.object("features");  // must be an object; the rest is the FeatureSpec's own business
  manifest.features_json = fields.value("features").dump();
  if (delta) {
    manifest.base = fields.version("base");
    manifest.chain = fields.integer("chain", 1, kMaxChain);
  } else if (parsed.contains("base")) {
    fields.fail("base", &fields.value("base"), "none in format 1; deltas have format 2");
  }
  manifest.weights = file_entry(fields.object("files"), delta ? "delta.safetensors" : "weights.safetensors");
  if (parsed.contains("lineage")) {
    fields.object("lineage");
    const nlohmann::json& lineage = parsed["lineage"];
    auto created = lineage.find("created");
    if (created != lineage.end() && created->is_string()) manifest.created = parse_time(created->get<std::string>());
  }
  return manifest;
}

BinaryManifest parse_binary_manifest(std::string_view json, const std::string& file) {
  nlohmann::json parsed = parse_json(json, file);
  Fields fields(parsed, file);
  if (int64_t format = fields.integer("format", 1, kBinaryFormat); format < kBinaryFormat) {
    fields.fail("format", &fields.value("format"),
                std::to_string(kBinaryFormat) + ", which holds packed weights: compile the template again");
  }
  BinaryManifest manifest;
  manifest.kind = kind_of(fields, parsed);
  manifest.source = template_ref(fields);
  manifest.abi_hash = fields.hex("abi_hash", 64);
  manifest.target = fields.name("target");
  manifest.isa = fields.text("isa", 64);
  manifest.torch = fields.text("torch", 64);
  manifest.kernel_version = fields.integer("kernel_version", 1, kMaxCount);
  manifest.kernel_abi = fields.integer("kernel_abi", 1, kMaxCount);
  manifest.precision = precision_of(fields);
  manifest.program = program_of(fields);
  manifest.packed_bytes = fields.integer("packed_bytes", 1, kMaxCount);
  manifest.slab_elements = fields.integer("slab_elements", 1, kMaxCount);
  manifest.dim = fields.integer("dim", 1, 1 << 16);
  manifest.tasks = fields.integer("tasks", 1, kMaxTasks);
  manifest.dense_slots = fields.integer("dense_slots", 0, kMaxSlots);
  manifest.categorical_slots = fields.integer("categorical_slots", 0, kMaxSlots);
  manifest.model = file_entry(fields.object("files"), "model.pt2");
  check_tensors(fields, "inputs", inputs_of(manifest));
  check_tensors(fields, "outputs", {{"probabilities", "float32", {-1, manifest.tasks}}});
  return manifest;
}

}  // namespace smt::server
