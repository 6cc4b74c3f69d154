// Python binding. Columns come in as views of numpy buffers and the batch goes out as views of the C++ vectors: no
// value is copied. The GIL is released while strings are located and transformed.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "messages.h"
#include "transform.h"

namespace py = pybind11;

namespace smt::transform {
namespace {

// The Python side of one column. The tuple's arrays are held, so that the views stay valid without the GIL.
struct PyColumn {
  std::string name;
  py::array values;                // numbers, or a string column's offsets [n + 1]
  std::optional<py::array> bytes;  // a string column's UTF-8
  std::optional<py::array> lengths;
};

template <class T>
std::span<const T> view(const py::array& array) {
  return {static_cast<const T*>(array.data()), static_cast<size_t>(array.size())};
}

template <class T>
bool is(const py::array& array) {
  constexpr int kAligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  return py::isinstance<py::array_t<T, py::array::c_style>>(array) && array.ndim() == 1 &&
         (array.flags() & kAligned) != 0;
}

[[noreturn]] void bad_array(const std::string& name, const char* what) {
  throw InputError(feature(name) + ": " + what);
}

// Arrow's layout -> string views. Offsets are checked: they are the only thing that could lead out of the buffer.
template <class Offset>
void locate(const std::string& name, std::span<const Offset> offsets, std::span<const char> bytes,
            std::vector<std::string_view>& out) {
  if (offsets.empty()) bad_array(name, "no string offsets; expected one more than there are values");
  out.resize(offsets.size() - 1);
  for (size_t i = 0; i < out.size(); ++i) {
    const auto start = static_cast<int64_t>(offsets[i]);
    const auto end = static_cast<int64_t>(offsets[i + 1]);
    if (start < 0 || end < start || end > static_cast<int64_t>(bytes.size())) {
      throw InputError(feature(name) + ": string " + std::to_string(i) + " at bytes " + std::to_string(start) + ".." +
                       std::to_string(end) + "; expected increasing offsets within the " +
                       std::to_string(bytes.size()) + " bytes of the buffer");
    }
    out[i] = {bytes.data() + start, static_cast<size_t>(end - start)};
  }
}

class Columns {
 public:
  explicit Columns(const py::sequence& columns) {
    for (const py::handle& item : columns) {
      const auto tuple = py::cast<py::tuple>(item);
      PyColumn column{py::cast<std::string>(tuple[0]), py::cast<py::array>(tuple[1]),
                      py::cast<std::optional<py::array>>(tuple[2]), py::cast<std::optional<py::array>>(tuple[3])};
      check(column);
      held_.push_back(std::move(column));
    }
    // Fixed before any view of them is taken.
    kinds_.reserve(held_.size());
    for (const PyColumn& column : held_) kinds_.push_back(kind(column));
    strings_.resize(held_.size());
  }

  // Needs no GIL: reads only the arrays' buffers, whose addresses were taken under it.
  std::span<const Column> views() {
    for (size_t i = 0; i < kinds_.size(); ++i) {
      Kind& k = kinds_[i];
      if (k.offsets32) locate(held_[i].name, *k.offsets32, k.bytes, strings_[i]);
      if (k.offsets64) locate(held_[i].name, *k.offsets64, k.bytes, strings_[i]);
      if (k.offsets32 || k.offsets64) k.column.values = StringValues(strings_[i]);
      views_.push_back(k.column);
    }
    return views_;
  }

 private:
  struct Kind {
    Column column;
    std::optional<std::span<const int32_t>> offsets32;
    std::optional<std::span<const int64_t>> offsets64;
    std::span<const char> bytes;
  };

  static void check(const PyColumn& column) {
    if (column.lengths && !is<int32_t>(*column.lengths)) {
      bad_array(column.name, "lengths are not a contiguous int32 array [rows]");
    }
    if (column.bytes) {
      if (!is<uint8_t>(*column.bytes)) bad_array(column.name, "string data is not a contiguous uint8 array");
      if (!is<int32_t>(column.values) && !is<int64_t>(column.values)) {
        bad_array(column.name, "string offsets are not a contiguous int32 or int64 array");
      }
    } else if (!is<float>(column.values) && !is<double>(column.values) && !is<int64_t>(column.values)) {
      bad_array(column.name, "values are not a contiguous float32, float64 or int64 array");
    }
  }

  static Kind kind(const PyColumn& column) {
    Kind out;
    out.column.name = column.name;
    if (column.lengths) out.column.lengths = view<int32_t>(*column.lengths);
    if (column.bytes) {
      const auto bytes = view<uint8_t>(*column.bytes);
      out.bytes = {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
      if (is<int32_t>(column.values)) {
        out.offsets32 = view<int32_t>(column.values);
      } else {
        out.offsets64 = view<int64_t>(column.values);
      }
    } else if (is<float>(column.values)) {
      out.column.values = view<float>(column.values);
    } else if (is<double>(column.values)) {
      out.column.values = view<double>(column.values);
    } else {
      out.column.values = view<int64_t>(column.values);
    }
    return out;
  }

  std::vector<PyColumn> held_;
  std::vector<Kind> kinds_;
  std::vector<std::vector<std::string_view>> strings_;
  std::vector<Column> views_;
};

template <class T>
py::array_t<T> export_array(std::vector<T>& values, std::vector<py::ssize_t> shape, const py::capsule& owner) {
  return py::array_t<T>(std::move(shape), values.data(), owner);
}

py::tuple apply(const FeatureSpec& spec, int64_t rows, const py::sequence& context, const py::sequence& candidates,
                int64_t max_rows, int64_t max_list, bool local_ids) {
  Columns context_columns(context);
  Columns candidate_columns(candidates);
  auto batch = std::make_unique<Batch>();
  {
    const py::gil_scoped_release release;
    spec.apply(rows, context_columns.views(), candidate_columns.views(), {max_rows, max_list}, *batch, local_ids);
  }
  Batch& out = *batch;
  const py::capsule owner(batch.release(), [](void* p) { delete static_cast<Batch*>(p); });
  const auto size = [](const auto& v) { return static_cast<py::ssize_t>(v.size()); };
  return py::make_tuple(export_array(out.dense, {rows, spec.dense_slots()}, owner),
                        export_array(out.ids, {size(out.ids)}, owner),
                        export_array(out.offsets, {size(out.offsets)}, owner),
                        export_array(out.bag_index, {rows, spec.categorical_slots()}, owner));
}

}  // namespace
}  // namespace smt::transform

PYBIND11_MODULE(_transform, module) {
  using namespace smt::transform;
  module.doc() = "C++ implementation of the transform op; use smt.kernels.transform.";
  py::register_exception<SpecError>(module, "SpecError", PyExc_ValueError);
  py::register_exception<InputError>(module, "InputError", PyExc_ValueError);
  py::class_<FeatureSpec>(module, "FeatureSpec")
      .def(py::init([](const py::bytes& json) { return FeatureSpec::parse(std::string_view(json)); }), py::arg("json"))
      .def_property_readonly("dense_slots", &FeatureSpec::dense_slots)
      .def_property_readonly("categorical_slots", &FeatureSpec::categorical_slots)
      .def_property_readonly("table_rows", &FeatureSpec::table_rows)
      .def("inputs",
           [](const FeatureSpec& spec) {
             py::list out;
             for (const InputInfo& input : spec.inputs()) {
               out.append(py::make_tuple(input.name, input.type, input.required, input.multi_valued));
             }
             return out;
           })
      .def("apply", &apply, py::arg("rows"), py::arg("context"), py::arg("candidates"), py::arg("max_rows"),
           py::arg("max_list"), py::arg("local_ids"));
}
