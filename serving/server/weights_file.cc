#include "weights_file.h"

#include "names.h"
#include "refusal.h"
#include "verified_file.h"

namespace smt::server {
namespace {

WeightShapes shapes_of(const SafetensorsHeader& header, const std::string& shown) {
  WeightShapes shapes;
  bool slab = false;
  bool table = false;
  for (const TensorInfo& tensor : header.tensors) {
    if (tensor.name == "slab") {
      expect_tensor(tensor, "F32", 1, shown);
      shapes.slab_elements = tensor.shape[0];
      slab = true;
    } else if (tensor.name == "table") {
      expect_tensor(tensor, "F32", 2, shown);
      shapes.table_rows = tensor.shape[0];
      shapes.dim = tensor.shape[1];
      table = true;
    } else {
      throw Refused(Reason::kWeights, shown + ": tensor " + quote(tensor.name) + ": expected only 'slab' and 'table'");
    }
  }
  if (!slab || !table) {
    throw Refused(Reason::kWeights, shown + ": no tensor '" + (slab ? "table" : "slab") + "' in the file");
  }
  return shapes;
}

}  // namespace

void read_weights(const std::filesystem::path& path, const std::string& shown, const FileEntry& expected,
                  const PlaceWeights& place, Reading reading) {
  auto tensors = [&](VerifiedFile& file, const SafetensorsHeader& header) {
    WeightPlaces places = place(shapes_of(header, shown));
    for (const TensorInfo& tensor : header.tensors) {
      file.read_finite(tensor.name == "slab" ? places.slab : places.table, tensor.name);
    }
  };
  read_verified(path, shown, expected, tensors, std::move(reading));
}

}  // namespace smt::server
