// Builds registries as serving/registry.py writes them: small, valid, and easy to damage.
#pragma once

#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "sha256.h"
#include "temporary_folder.h"

namespace smt::server {

using Json = nlohmann::json;

// A safetensors file of float32 tensors.
struct Tensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};

inline std::string with_prefix(const std::string& header, const std::string& data) {
  std::string file;
  for (int i = 0; i < 8; ++i) file.push_back(static_cast<char>(header.size() >> (8 * i) & 0xff));
  return file + header + data;
}

inline std::string safetensors(const std::vector<Tensor>& tensors) {
  Json header = Json::object();
  std::string data;
  for (const Tensor& tensor : tensors) {
    size_t begin = data.size();
    data.append(reinterpret_cast<const char*>(tensor.values.data()), tensor.values.size() * sizeof(float));
    header[tensor.name] = {{"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  return with_prefix(header.dump(), data);
}

// The same with the tensor `rows` of int64, as a delta has it.
inline std::string delta_tensors(const std::vector<int64_t>& rows, const std::vector<Tensor>& floats) {
  Json header = Json::object();
  std::string data(reinterpret_cast<const char*>(rows.data()), rows.size() * sizeof(int64_t));
  header["rows"] = {{"dtype", "I64"}, {"shape", {rows.size()}}, {"data_offsets", {size_t{0}, data.size()}}};
  for (const Tensor& tensor : floats) {
    size_t begin = data.size();
    data.append(reinterpret_cast<const char*>(tensor.values.data()), tensor.values.size() * sizeof(float));
    header[tensor.name] = {{"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  return with_prefix(header.dump(), data);
}

inline const std::string kAbi(64, 'a');
inline constexpr int64_t kSlab = 32;
inline constexpr int64_t kDim = 2;
inline constexpr int64_t kTableRows = 5;
// bf16, 3 dense inputs -> mlp of 2 units -> 2 slots of dim 2 gathered -> 2 heads; reads elements 0..21 of the slab. See
// kernels/cpu/program.py.
inline const std::vector<int64_t> kProgram{1, 1, 3, 1, 1, 0, 1, 2, 0, 6, -1, 2, 2, 2, 0, 0, 0, 7, 0, 2, 1, 1, 0, 8, 20};
// What the slot is packed as; the mlp's scales, levels, weights (a panel of 16 columns, one block of 32 k) and biases;
// the heads' weights and biases.
inline constexpr int64_t kPackedMlpScale = 64;
inline constexpr int64_t kPackedMlp = kPackedMlpScale + 128;
inline constexpr int64_t kPackedMlpBias = kPackedMlp + 1024;
inline constexpr int64_t kPackedHeads = kPackedMlpBias + 64;
inline constexpr int64_t kPackedHeadBias = kPackedHeads + 128;
inline constexpr int64_t kPacked = kPackedHeadBias + 64;

inline Json binary_manifest(const std::string& model = "compiled") {
  return {{"format", 2},
          {"template", {{"name", "ranking"}, {"version", "1.0.0"}}},
          {"abi_hash", kAbi},
          {"target", "cpu"},
          {"isa", "scalar"},
          {"torch", "2.13.0"},
          {"kernel_version", 1},
          {"kernel_abi", 1},
          {"precision", "bf16"},
          {"program", kProgram},
          {"packed_bytes", kPacked},
          {"slab_elements", kSlab},
          {"dim", kDim},
          {"tasks", 2},
          {"dense_slots", 3},
          {"categorical_slots", 2},
          {"layout", Json::array()},
          {"inputs",
           {{{"name", "arena"}, {"dtype", "uint8"}, {"shape", {"slots", kPacked}}},
            {{"name", "block_slot"}, {"dtype", "int32"}, {"shape", Json::array({"blocks"})}},
            {{"name", "pool"}, {"dtype", "float32"}, {"shape", {"pool_rows", kDim}}},
            {{"name", "pool_base"}, {"dtype", "int64"}, {"shape", Json::array({"slots"})}},
            {{"name", "dense"}, {"dtype", "float32"}, {"shape", {"rows", 3}}},
            {{"name", "ids"}, {"dtype", "int64"}, {"shape", Json::array({"ids"})}},
            {{"name", "offsets"}, {"dtype", "int64"}, {"shape", Json::array({"bags+1"})}},
            {{"name", "bag_index"}, {"dtype", "int64"}, {"shape", {"rows", 2}}}}},
          {"outputs", Json::array({{{"name", "probabilities"}, {"dtype", "float32"}, {"shape", {"rows", 2}}}})},
          {"files", {{"model.pt2", {{"bytes", model.size()}, {"sha256", sha256_hex(model)}}}}}};
}

// The same sizes as a binary of views: a slot of the arena is the slab.
inline Json views_manifest() {
  Json json = binary_manifest();
  json["kind"] = "views";
  json["precision"] = "fp32";
  json["program"] = Json::array();
  json["packed_bytes"] = kSlab * static_cast<int64_t>(sizeof(float));
  Json inputs = {{{"name", "slab"}, {"dtype", "float32"}, {"shape", Json::array({kSlab})}},
                 {{"name", "table"}, {"dtype", "float32"}, {"shape", {"table_rows", kDim}}}};
  for (size_t i = 4; i < 8; ++i) inputs.push_back(json["inputs"][i]);
  json["inputs"] = inputs;
  return json;
}

inline Json features() {
  return {{"format", 1},
          {"dense_slots", 3},
          {"categorical_slots", 2},
          {"table_rows", kTableRows},
          {"features",
           {{{"name", "age"},
             {"input", "age"},
             {"type", "number"},
             {"required", true},
             {"kind", "dense"},
             {"slot", 0},
             {"default", nullptr},
             {"steps", Json::array()}},
            {{"name", "city"},
             {"input", "city"},
             {"type", "string"},
             {"required", true},
             {"kind", "categorical"},
             {"slot", 1},
             {"multi_valued", false},
             {"max_length", 1},
             {"first_row", 0},
             {"rows", kTableRows},
             {"default", nullptr},
             {"encode", {{"op", "vocabulary"}, {"values", {"a", "b", "c"}}}}}}}};
}

inline std::string weights(float value = 0.5F, int64_t slab = kSlab, int64_t rows = kTableRows, int64_t dim = kDim) {
  return safetensors({{"slab", {slab}, std::vector<float>(static_cast<size_t>(slab), value)},
                      {"table", {rows, dim}, std::vector<float>(static_cast<size_t>(rows * dim), value)}});
}

// A delta.safetensors whose weights are all `value`.
inline std::string delta_file(const std::vector<int64_t>& rows, float value, int64_t slab = kSlab, int64_t dim = kDim) {
  auto count = static_cast<int64_t>(rows.size());
  return delta_tensors(rows, {{"slab", {slab}, std::vector<float>(static_cast<size_t>(slab), value)},
                              {"values", {count, dim}, std::vector<float>(static_cast<size_t>(count * dim), value)}});
}

inline Json snapshot_manifest(const std::string& scenario, const std::string& version, const std::string& file) {
  return {{"format", 1},
          {"scenario", scenario},
          {"version", version},
          {"template", {{"name", "ranking"}, {"version", "1.0.0"}}},
          {"abi_hash", kAbi},
          {"dim", kDim},
          {"tasks", {{{"name", "click"}, {"head", 0}}, {{"name", "like"}, {"head", 1}}}},
          {"features", features()},
          {"files", {{"weights.safetensors", {{"bytes", file.size()}, {"sha256", sha256_hex(file)}}}}},
          {"metrics", Json::object()},
          {"lineage", {{"created", "2026-01-02T03:04:05.250+00:00"}}}};
}

class RegistryBuilder {
 public:
  const std::filesystem::path& root() const { return folder_.path(); }
  std::filesystem::path version_dir(const std::string& scenario, const std::string& version) const {
    return root() / "scenarios" / scenario / "versions" / version;
  }
  std::filesystem::path binary_dir() const { return root() / "templates" / "ranking" / kAbi / "cpu"; }

  void binary(const Json& manifest = binary_manifest(), const std::string& model = "compiled") {
    write_file(binary_dir() / "model.pt2", model);
    write_file(binary_dir() / "manifest.json", manifest.dump());
  }
  void manifest(const std::string& scenario, const std::string& version, const std::string& text) {
    write_file(version_dir(scenario, version) / "manifest.json", text);
    write_file(version_dir(scenario, version) / "manifest.sha256", sha256_hex(text) + "\n");
  }
  void snapshot(const std::string& scenario, const std::string& version, const std::string& file = weights()) {
    write_file(version_dir(scenario, version) / "weights.safetensors", file);
    manifest(scenario, version, snapshot_manifest(scenario, version, file).dump());
  }
  // `change` alters the manifest before it is written.
  void delta(const std::string& scenario, const std::string& version, const std::string& base, int chain,
             const std::string& file, const std::function<void(Json&)>& change) {
    Json json = snapshot_manifest(scenario, version, file);
    json["format"] = 2;
    json["base"] = base;
    json["chain"] = chain;
    json["files"] = {{"delta.safetensors", {{"bytes", file.size()}, {"sha256", sha256_hex(file)}}}};
    if (change) change(json);
    write_file(version_dir(scenario, version) / "delta.safetensors", file);
    manifest(scenario, version, json.dump());
  }
  void point(const std::string& scenario, const std::string& text) {
    write_file(root() / "scenarios" / scenario / "current", text);
  }

 private:
  TemporaryFolder folder_;
};

}  // namespace smt::server
