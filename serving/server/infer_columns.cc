#include "infer_columns.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <string_view>

namespace smt::server {
namespace {

using google::protobuf::Arena;

constexpr std::string_view kLengths = ".lengths";

[[noreturn]] void fail(const InferTensor& tensor, const std::string& what) {
  throw transform::InputError(tensor.place() + ": " + what);
}

// A column of the request: its values, and its lengths if they are sent.
struct Entry {
  InferTensor tensor;
  const InferTensor* lengths = nullptr;

  const InferTensor& rows_from() const { return lengths != nullptr ? *lengths : tensor; }
  int64_t rows() const { return rows_from().rows; }
};

// Indices of the tensors in the order of their names. Throws for two of one name.
std::vector<size_t> by_name(const std::vector<InferTensor>& tensors) {
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  auto name = [&](size_t i) -> const std::string& { return tensors[i].input->name(); };
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const int compared = name(a).compare(name(b));
    return compared != 0 ? compared < 0 : a < b;
  });
  for (size_t i = 1; i < order.size(); ++i) {
    if (name(order[i - 1]) == name(order[i])) fail(tensors[order[i]], "sent twice; expected once");
  }
  return order;
}

// Every tensor but those that are the lengths of another. `tensors` must outlive the result.
std::vector<Entry> pair_up(const std::vector<InferTensor>& tensors) {
  const std::vector<size_t> order = by_name(tensors);
  auto find = [&](std::string_view wanted) -> const InferTensor* {
    auto before = [&](size_t i, std::string_view name) { return tensors[i].input->name() < name; };
    auto at = std::lower_bound(order.begin(), order.end(), wanted, before);
    return at != order.end() && tensors[*at].input->name() == wanted ? &tensors[*at] : nullptr;
  };
  std::vector<const InferTensor*> lengths_of(tensors.size());
  std::vector<bool> is_lengths(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    std::string_view name = tensors[i].input->name();
    if (!name.ends_with(kLengths)) continue;
    const InferTensor* values = find(name.substr(0, name.size() - kLengths.size()));
    if (values == nullptr) continue;
    lengths_of[static_cast<size_t>(values->index)] = &tensors[i];
    is_lengths[i] = true;
  }
  std::vector<Entry> entries;
  entries.reserve(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!is_lengths[i]) {
      entries.push_back({tensors[i], lengths_of[i]});
    } else if (lengths_of[i] != nullptr) {
      fail(*lengths_of[i], "holds the lengths of lengths; expected those of an input");
    }
  }
  return entries;
}

// Checks that the shapes of a tensor with its lengths are those of a flat list.
void check_flat(const Entry& entry) {
  if (entry.lengths == nullptr) return;
  if (!entry.tensor.flat) {
    fail(entry.tensor, "two dimensions though " + entry.lengths->place() + " is sent; expected shape [values]");
  }
  if (!entry.lengths->flat) fail(*entry.lengths, "two dimensions; expected shape [rows]");
}

class Reader {
 public:
  Reader(int64_t rows, Arena& arena) : rows_(rows), arena_(arena) {}

  // Requires entry.rows() of `rows` or 1.
  transform::Column column(const Entry& entry) {
    transform::Column out{
        .name = entry.tensor.input->name(), .values = read_values(entry.tensor, arena_), .lengths = {}};
    if (entry.lengths != nullptr) {
      out.lengths = read_lengths(*entry.lengths, arena_);
    } else if (entry.tensor.width != 1) {
      out.lengths = all(entry.tensor.width, entry.rows());
    }
    return out;
  }

 private:
  // `rows` times the length `width`, of which as many values were counted.
  std::span<const int32_t> all(int64_t width, int64_t rows) {
    // Nothing was counted of width 0: all such tensors share one array, or many of them would take memory out of
    // nothing.
    if (width == 0 && zeros_ != nullptr) return {zeros_, static_cast<size_t>(rows)};
    const int64_t size = width == 0 ? rows_ : rows;
    auto* lengths = Arena::CreateArray<int32_t>(&arena_, static_cast<size_t>(size));
    std::fill_n(lengths, size, static_cast<int32_t>(width));
    if (width == 0) zeros_ = lengths;
    return {lengths, static_cast<size_t>(rows)};
  }

  const int64_t rows_;
  Arena& arena_;
  const int32_t* zeros_ = nullptr;
};

// The number of rows of the request; `most` has the most rows of any entry, null if there is none.
int64_t rows_of(std::optional<int64_t> stated, const Entry* most, int64_t max_rows) {
  if (!stated && most == nullptr) {
    throw transform::InputError("inputs: none; expected those of the model, or the parameter 'rows' (int64)");
  }
  const int64_t rows = stated ? *stated : most->rows();
  if (rows >= 1 && rows <= max_rows) return rows;
  const std::string what = std::to_string(rows) + " rows; expected 1.." + std::to_string(max_rows);
  if (stated) throw transform::InputError("parameter 'rows': " + what);
  fail(most->rows_from(), what);
}

}  // namespace

InferColumns view_inputs(const inference::ModelInferRequest& request, std::optional<int64_t> stated_rows,
                         int64_t max_rows, Arena& arena) {
  std::vector<InferTensor> tensors;
  tensors.reserve(static_cast<size_t>(request.inputs_size()));
  for (int i = 0; i < request.inputs_size(); ++i) tensors.push_back(check_tensor(request, i));
  const std::vector<Entry> entries = pair_up(tensors);
  const Entry* most = nullptr;
  for (const Entry& entry : entries) {
    check_flat(entry);
    if (most == nullptr || entry.rows() > most->rows()) most = &entry;
  }
  InferColumns out;
  out.rows = rows_of(stated_rows, most, max_rows);
  Reader reader(out.rows, arena);
  for (const Entry& entry : entries) {
    if (entry.rows() != out.rows && entry.rows() != 1) {
      fail(entry.rows_from(), std::to_string(entry.rows()) + " rows; expected " + std::to_string(out.rows) + ", as " +
                                  (stated_rows ? "the parameter 'rows' says" : most->rows_from().place() + " has") +
                                  ", or 1 (a context feature)");
    }
    (entry.rows() == out.rows ? out.candidates : out.context).push_back(reader.column(entry));
  }
  return out;
}

}  // namespace smt::server
