#include "delta_file.h"

#include <optional>

#include "names.h"
#include "refusal.h"
#include "verified_file.h"

namespace smt::server {
namespace {

[[noreturn]] void refuse(const std::string& shown, const std::string& message) {
  throw Refused(Reason::kWeights, shown + ": " + message);
}

DeltaShapes shapes_of(const SafetensorsHeader& header, const std::string& shown) {
  std::optional<int64_t> slab;
  std::optional<int64_t> rows;
  std::optional<int64_t> values;
  DeltaShapes shapes;
  for (const TensorInfo& tensor : header.tensors) {
    if (tensor.name == "slab") {
      expect_tensor(tensor, "F32", 1, shown);
      slab = shapes.slab_elements = tensor.shape[0];
    } else if (tensor.name == "rows") {
      expect_tensor(tensor, tensor.dtype == "U32" ? "U32" : "I64", 1, shown);
      rows = shapes.rows = tensor.shape[0];
    } else if (tensor.name == "values") {
      expect_tensor(tensor, "F32", 2, shown);
      values = tensor.shape[0];
      shapes.dim = tensor.shape[1];
    } else {
      refuse(shown, "tensor " + quote(tensor.name) + ": expected only 'slab', 'rows' and 'values'");
    }
  }
  if (!slab || !rows || !values) {
    refuse(shown, std::string("no tensor '") + (!slab ? "slab" : !rows ? "rows" : "values") + "' in the file");
  }
  if (*rows != *values) {
    refuse(shown, "tensor 'values': found " + std::to_string(*values) + " rows; expected " + std::to_string(*rows) +
                      ", as many as 'rows' names");
  }
  return shapes;
}

template <typename Stored>
std::vector<int64_t> read_rows(VerifiedFile& file, int64_t count) {
  std::vector<Stored> stored(static_cast<size_t>(count));
  file.read(std::as_writable_bytes(std::span(stored)));
  std::vector<int64_t> rows(stored.begin(), stored.end());
  for (size_t i = 0; i < rows.size(); ++i) {
    if (i == 0 ? rows[i] >= 0 : rows[i] > rows[i - 1]) continue;
    refuse(file.shown(), "tensor 'rows': element " + std::to_string(i) + " is " + std::to_string(rows[i]) +
                             "; expected strictly increasing rows from 0 on");
  }
  return rows;
}

}  // namespace

std::vector<int64_t> read_delta(const std::filesystem::path& path, const std::string& shown, const FileEntry& expected,
                                const PlaceDelta& place, Reading reading) {
  std::vector<int64_t> rows;
  auto tensors = [&](VerifiedFile& file, const SafetensorsHeader& header) {
    DeltaShapes shapes = shapes_of(header, shown);
    DeltaPlaces places = place(shapes);
    for (const TensorInfo& tensor : header.tensors) {
      if (tensor.name == "rows") {
        rows = tensor.dtype == "U32" ? read_rows<uint32_t>(file, shapes.rows) : read_rows<int64_t>(file, shapes.rows);
      } else {
        file.read_finite(tensor.name == "slab" ? places.slab : places.values, tensor.name);
      }
    }
  };
  read_verified(path, shown, expected, tensors, std::move(reading));
  return rows;
}

}  // namespace smt::server
