#include "infer_tensor.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <new>
#include <type_traits>

#include "names.h"

namespace smt::server {
namespace {

using google::protobuf::Arena;
using google::protobuf::RepeatedField;
using inference::InferTensorContents;

static_assert(std::endian::native == std::endian::little, "raw contents are little-endian and not converted");
static_assert(std::is_same_v<google::protobuf::int64, int64_t>);

// In the order of the fields of InferTensorContents.
enum class Contents { kBool, kInt, kInt64, kUint, kUint64, kFp32, kFp64, kBytes };
constexpr std::array<const char*, 8> kContentsNames{"bool_contents", "int_contents",    "int64_contents",
                                                    "uint_contents", "uint64_contents", "fp32_contents",
                                                    "fp64_contents", "bytes_contents"};

struct Datatype {
  std::string_view name;
  size_t bytes;  // of a raw value; of BYTES, at least
  Contents contents;
};
constexpr std::array<Datatype, 12> kDatatypes{{{"FP32", 4, Contents::kFp32},
                                               {"FP64", 8, Contents::kFp64},
                                               {"INT64", 8, Contents::kInt64},
                                               {"BYTES", 4, Contents::kBytes},
                                               {"INT32", 4, Contents::kInt},
                                               {"INT16", 2, Contents::kInt},
                                               {"INT8", 1, Contents::kInt},
                                               {"UINT64", 8, Contents::kUint64},
                                               {"UINT32", 4, Contents::kUint},
                                               {"UINT16", 2, Contents::kUint},
                                               {"UINT8", 1, Contents::kUint},
                                               {"BOOL", 1, Contents::kBool}}};

[[noreturn]] void fail(const InferTensor& tensor, const std::string& what) {
  throw transform::InputError(tensor.place() + ": " + what);
}

const Datatype* find_datatype(std::string_view name) {
  auto same = [&](const Datatype& datatype) { return datatype.name == name; };
  auto found = std::find_if(kDatatypes.begin(), kDatatypes.end(), same);
  return found == kDatatypes.end() ? nullptr : &*found;
}

const Datatype& datatype_of(const InferTensor& tensor) {
  const Datatype* found = find_datatype(tensor.input->datatype());
  if (found != nullptr) return *found;
  std::string names;
  for (const Datatype& datatype : kDatatypes) names.append(names.empty() ? "" : ", ").append(datatype.name);
  fail(tensor, "datatype " + quote(tensor.input->datatype()) + "; expected one of " + names);
}

std::string shown(const RepeatedField<google::protobuf::int64>& shape) {
  std::string out = "[";
  for (int i = 0; i < std::min(shape.size(), 4); ++i) out += (i > 0 ? ", " : "") + std::to_string(shape.Get(i));
  return out + (shape.size() > 4 ? ", ...]" : "]");
}

// Sets rows, width and flat. The product of the dimensions fits then.
void check_shape(InferTensor& tensor) {
  const auto& shape = tensor.input->shape();
  bool fits = shape.size() == 1 || shape.size() == 2;
  for (const int64_t size : shape) fits = fits && size >= 0;
  if (fits) {
    tensor.flat = shape.size() == 1;
    tensor.rows = shape.Get(0);
    tensor.width = tensor.flat ? 1 : shape.Get(1);
    int64_t count = 0;
    fits = !__builtin_mul_overflow(tensor.rows, tensor.width, &count);
  }
  if (!fits)
    fail(tensor, "shape " + shown(shape) + "; expected [rows] or [rows, values per row], none of them negative");
}

std::array<int, 8> sizes_of(const InferTensorContents& contents) {
  return {contents.bool_contents_size(), contents.int_contents_size(),    contents.int64_contents_size(),
          contents.uint_contents_size(), contents.uint64_contents_size(), contents.fp32_contents_size(),
          contents.fp64_contents_size(), contents.bytes_contents_size()};
}

void check_typed(const InferTensor& tensor, const Datatype& datatype) {
  std::array<int, 8> sizes = sizes_of(tensor.input->contents());
  const auto wanted = static_cast<size_t>(datatype.contents);
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (i == wanted || sizes[i] == 0) continue;
    fail(tensor, "values in contents." + std::string(kContentsNames[i]) + "; expected those of " +
                     std::string(datatype.name) + " in contents." + kContentsNames[wanted]);
  }
  if (sizes[wanted] != tensor.count()) {
    fail(tensor, "contents." + std::string(kContentsNames[wanted]) + " holds " + std::to_string(sizes[wanted]) +
                     " values; expected " + std::to_string(tensor.count()) + ", as shape " +
                     shown(tensor.input->shape()) + " says");
  }
}

void check_raw(const InferTensor& tensor, int index, const Datatype& datatype) {
  const auto found = static_cast<int64_t>(tensor.raw->size());
  const auto size = static_cast<int64_t>(datatype.bytes);
  const bool bytes = datatype.contents == Contents::kBytes;
  int64_t wanted = 0;
  const bool absurd = __builtin_mul_overflow(tensor.count(), size, &wanted);
  if (!absurd && (bytes ? wanted <= found : wanted == found)) return;
  fail(tensor, "raw_input_contents[" + std::to_string(index) + "] holds " + std::to_string(found) +
                   " bytes; expected " + (bytes ? "at least " : "") + std::to_string(tensor.count()) + " values of " +
                   std::to_string(datatype.bytes) + " bytes, as datatype " + std::string(datatype.name) +
                   " and shape " + shown(tensor.input->shape()) + " say");
}

// The bytes of `text` as values of T where they lie; copied if the string does not keep them aligned.
template <class T>
std::span<const T> in_place(const std::string& text, Arena& arena) {
  const size_t count = text.size() / sizeof(T);
  if (reinterpret_cast<uintptr_t>(text.data()) % alignof(T) == 0) {
    return {reinterpret_cast<const T*>(text.data()), count};
  }
  T* copy = Arena::CreateArray<T>(&arena, count);
  std::memcpy(copy, text.data(), count * sizeof(T));
  return {copy, count};
}

template <class T>
std::span<const T> span_of(const RepeatedField<T>& field) {
  return {field.data(), static_cast<size_t>(field.size())};
}

// `source` holds `count` values of type From, which are in the range of T; as int64.
template <class T, class From = T>
transform::IntValues widened(const InferTensor& tensor, const char* source, Arena& arena) {
  const auto count = static_cast<size_t>(tensor.count());
  auto* out = Arena::CreateArray<int64_t>(&arena, count);
  bool fits = true;  // looked at without a branch, so that the loop vectorises
  for (size_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, source + i * sizeof(From), sizeof(From));
    out[i] = static_cast<int64_t>(value);
    fits &= std::in_range<T>(value) && std::in_range<int64_t>(value);
  }
  if (fits) return {out, count};
  const T highest = std::numeric_limits<T>::max();
  for (size_t i = 0;; ++i) {
    From value;
    std::memcpy(&value, source + i * sizeof(From), sizeof(From));
    if (std::in_range<T>(value) && std::in_range<int64_t>(value)) continue;
    const bool wide = std::in_range<int64_t>(highest);
    fail(tensor, "value " + std::to_string(i) + " is " + std::to_string(value) + "; expected " +
                     std::to_string(std::numeric_limits<T>::min()) + ".." +
                     (wide ? std::to_string(highest) : std::to_string(std::numeric_limits<int64_t>::max())));
  }
}

template <class T, class From>
transform::IntValues widened(const InferTensor& tensor, const RepeatedField<From>& typed, Arena& arena) {
  if (tensor.raw != nullptr) return widened<T>(tensor, tensor.raw->data(), arena);
  return widened<T, From>(tensor, reinterpret_cast<const char*>(typed.data()), arena);
}

// A byte other than 0 and 1 is no bool, and reading it as one is undefined: as uint8.
transform::IntValues bools(const InferTensor& tensor, Arena& arena) {
  const char* source = tensor.raw != nullptr
                           ? tensor.raw->data()
                           : reinterpret_cast<const char*>(tensor.input->contents().bool_contents().data());
  transform::IntValues values = widened<uint8_t>(tensor, source, arena);
  auto bad = std::find_if(values.begin(), values.end(), [](int64_t value) { return value > 1; });
  if (bad == values.end()) return values;
  fail(tensor, "value " + std::to_string(bad - values.begin()) + " is " + std::to_string(*bad) +
                   "; expected 0 or 1, as datatype BOOL says");
}

void check_text(const InferTensor& tensor, size_t index, std::string_view text) {
  if (transform::valid_utf8(text)) return;
  fail(tensor, "value " + std::to_string(index) + " is " + quote(text) + "; expected UTF-8");
}

transform::StringValues strings(const InferTensor& tensor, Arena& arena) {
  const auto count = static_cast<size_t>(tensor.count());
  static_assert(alignof(std::string_view) <= 8, "of the arena's memory");
  auto* out = reinterpret_cast<std::string_view*>(Arena::CreateArray<char>(&arena, count * sizeof(std::string_view)));
  if (tensor.raw == nullptr) {
    for (size_t i = 0; i < count; ++i) {
      auto* text = new (out + i) std::string_view(tensor.input->contents().bytes_contents(static_cast<int>(i)));
      check_text(tensor, i, *text);
    }
    return {out, count};
  }
  std::string_view left = *tensor.raw;
  for (size_t i = 0; i < count; ++i) {
    uint32_t size = 0;
    if (left.size() >= sizeof size) std::memcpy(&size, left.data(), sizeof size);
    if (left.size() < sizeof size || left.size() - sizeof size < size) {
      fail(tensor, "value " + std::to_string(i) + " of " + std::to_string(count) + " runs past the end of " +
                       std::to_string(tensor.raw->size()) +
                       " bytes; expected each value's length as 4 bytes, then the value");
    }
    auto* text = new (out + i) std::string_view(left.substr(sizeof size, size));
    check_text(tensor, i, *text);
    left.remove_prefix(sizeof size + size);
  }
  if (!left.empty()) {
    fail(tensor, std::to_string(left.size()) + " bytes after the last of " + std::to_string(count) +
                     " values; expected none, as shape " + shown(tensor.input->shape()) + " says");
  }
  return {out, count};
}

}  // namespace

std::string InferTensor::place() const { return "inputs[" + std::to_string(index) + "] " + quote(input->name()); }

InferTensor check_tensor(const inference::ModelInferRequest& request, int index) {
  InferTensor tensor{.input = &request.inputs(index), .index = index};
  const Datatype& datatype = datatype_of(tensor);
  check_shape(tensor);
  if (request.raw_input_contents().empty()) {
    check_typed(tensor, datatype);
    return tensor;
  }
  if (request.raw_input_contents_size() != request.inputs_size()) {
    throw transform::InputError("raw_input_contents: " + std::to_string(request.raw_input_contents_size()) +
                                " entries; expected " + std::to_string(request.inputs_size()) +
                                ", one per input, or none (then every input's values are in its contents)");
  }
  std::array<int, 8> sizes = sizes_of(tensor.input->contents());
  if (std::any_of(sizes.begin(), sizes.end(), [](int size) { return size > 0; })) {
    fail(tensor, "has contents though raw_input_contents are sent; expected the values of all inputs in one of them");
  }
  tensor.raw = &request.raw_input_contents(index);
  check_raw(tensor, index, datatype);
  return tensor;
}

InferValues read_values(const InferTensor& tensor, Arena& arena) {
  const InferTensorContents& typed = tensor.input->contents();
  const Datatype& datatype = datatype_of(tensor);
  switch (datatype.contents) {
    case Contents::kFp32:
      return tensor.raw != nullptr ? in_place<float>(*tensor.raw, arena) : span_of(typed.fp32_contents());
    case Contents::kFp64:
      return tensor.raw != nullptr ? in_place<double>(*tensor.raw, arena) : span_of(typed.fp64_contents());
    case Contents::kInt64:
      return tensor.raw != nullptr ? in_place<int64_t>(*tensor.raw, arena) : span_of(typed.int64_contents());
    case Contents::kBytes:
      return strings(tensor, arena);
    case Contents::kBool:
      return bools(tensor, arena);
    case Contents::kUint64:
      return widened<uint64_t>(tensor, typed.uint64_contents(), arena);
    case Contents::kInt:
      if (datatype.bytes == 4) return widened<int32_t>(tensor, typed.int_contents(), arena);
      if (datatype.bytes == 2) return widened<int16_t>(tensor, typed.int_contents(), arena);
      return widened<int8_t>(tensor, typed.int_contents(), arena);
    case Contents::kUint:
      if (datatype.bytes == 4) return widened<uint32_t>(tensor, typed.uint_contents(), arena);
      if (datatype.bytes == 2) return widened<uint16_t>(tensor, typed.uint_contents(), arena);
      return widened<uint8_t>(tensor, typed.uint_contents(), arena);
  }
  return {};
}

std::span<const int32_t> read_lengths(const InferTensor& tensor, Arena& arena) {
  if (tensor.input->datatype() != "INT32") {
    fail(tensor, "datatype " + quote(tensor.input->datatype()) + "; expected INT32, of lengths");
  }
  return tensor.raw != nullptr ? in_place<int32_t>(*tensor.raw, arena)
                               : span_of(tensor.input->contents().int_contents());
}

}  // namespace smt::server
