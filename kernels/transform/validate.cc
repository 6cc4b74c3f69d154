// Checks the columns of one call before anything is computed. All of a batch's sizes are settled here: append.cc
// relies on it and does not look again.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "messages.h"
#include "model.h"

namespace smt::transform {
namespace {

[[noreturn]] void fail(const Column& column, const std::string& found, const std::string& expected) {
  throw InputError(feature(column.name) + ": " + found + "; expected " + expected);
}

std::string count(int64_t n, const char* noun) { return std::to_string(n) + " " + noun + (n == 1 ? "" : "s"); }

const char* value_type(const Column& column) {
  static constexpr const char* kNames[] = {"floats", "doubles", "ints", "strings"};
  return kNames[column.values.index()];
}

void check_type(const Input& input, const Column& column) {
  const bool ints = std::holds_alternative<IntValues>(column.values);
  const bool strings = std::holds_alternative<StringValues>(column.values);
  switch (input.type) {
    case InputType::kNumber:
      if (!strings) return;
      break;
    case InputType::kInt:
      if (ints) return;
      break;
    case InputType::kString:
      if (strings) return;
      break;
  }
  static constexpr const char* kExpected[] = {"numbers (floats, doubles or ints)", "ints", "strings"};
  throw InputError(feature(column.name) + ": expected " + kExpected[static_cast<int>(input.type)] + ", got " +
                   value_type(column));
}

// The row that holds value `index`.
size_t row_of(const Column& column, size_t index) {
  if (column.lengths.empty()) return index;
  size_t row = 0;
  for (auto left = static_cast<int64_t>(index); (left -= column.lengths[row]) >= 0;) ++row;
  return row;
}

// Also appends the column's part of CheckedColumns::value_starts.
void check_lengths(const Input& input, const Column& column, int64_t rows, int64_t values, bool context,
                   int64_t max_list, std::vector<int64_t>& starts) {
  const char* unit = context ? " (a context feature holds one row)" : ", one per row";
  if (column.lengths.empty()) {
    if (values == rows) return;
    fail(column, count(values, "value") + " without lengths", std::to_string(rows) + unit);
  }
  if (static_cast<int64_t>(column.lengths.size()) != rows) {
    fail(column, count(static_cast<int64_t>(column.lengths.size()), "length"), std::to_string(rows) + unit);
  }
  const int64_t limit = input.multi_valued ? max_list : 1;
  int32_t least = 0;
  int32_t most = 0;
  for (const int32_t length : column.lengths) {
    least = length < least ? length : least;
    most = length > most ? length : most;
  }
  if (least < 0 || most > limit) {
    for (size_t row = 0;; ++row) {
      const int64_t length = column.lengths[row];
      const std::string where = " in row " + std::to_string(row);
      if (length < 0) fail(column, "length " + std::to_string(length) + where, "0 or more");
      if (length <= limit) continue;
      fail(column, count(length, "value") + where,
           input.multi_valued ? "at most " + std::to_string(limit) : "at most 1, it is not multi-valued");
    }
  }
  int64_t sum = 0;
  auto left = column.lengths;
  for (constexpr size_t kBlock = CheckedColumns::kStartsEvery; left.size() >= kBlock; left = left.subspan(kBlock)) {
    starts.push_back(sum);
    for (const int32_t length : left.first<kBlock>()) sum += length;
  }
  starts.push_back(sum);
  for (const int32_t length : left) sum += length;
  if (sum != values) {
    fail(column, count(values, "value") + " but lengths that sum to " + std::to_string(sum), "the two to be equal");
  }
}

template <class T>
void check_finite(const Column& column, std::span<const T> values) {
  int64_t bad = 0;  // counted without a branch, so that the loop vectorises; the row is looked up only on failure
  for (const T value : values) bad += !(std::abs(value) <= std::numeric_limits<T>::max());
  if (bad == 0) return;
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i])) continue;
    const std::string found = std::isnan(values[i]) ? "NaN" : values[i] > 0 ? "Inf" : "-Inf";
    fail(column, found + " in row " + std::to_string(row_of(column, i)), "finite numbers (length 0 where missing)");
  }
}

void check_column(const Input& input, const Column& column, int64_t rows, bool context, const Limits& limits,
                  std::vector<int64_t>& starts) {
  check_type(input, column);
  const auto values = static_cast<int64_t>(std::visit([](const auto& v) { return v.size(); }, column.values));
  check_lengths(input, column, context ? 1 : rows, values, context, limits.max_list, starts);
  if (const auto* floats = std::get_if<FloatValues>(&column.values)) check_finite(column, *floats);
  if (const auto* doubles = std::get_if<DoubleValues>(&column.values)) check_finite(column, *doubles);
}

[[noreturn]] void fail_unknown(const Model& model, const Column& column) {
  std::vector<std::string_view> known;
  for (const Input& input : model.inputs) known.push_back(input.name);
  throw InputError(feature(column.name) + ": unknown feature; " + suggest(column.name, known));
}

}  // namespace

void bind(const Model& model, int64_t rows, std::span<const Column> context, std::span<const Column> candidates,
          const Limits& limits, CheckedColumns& out) {
  if (rows < 1 || rows > limits.max_rows) {
    throw InputError("rows: " + std::to_string(rows) + "; expected 1.." + std::to_string(limits.max_rows));
  }
  out.inputs.assign(model.inputs.size(), {});
  out.value_starts.clear();
  const auto add = [&](const Column& column, bool is_context) {
    const int64_t position = model.input_positions.find(column.name);
    if (position < 0) fail_unknown(model, column);
    CheckedColumns::Input& entry = out.inputs[static_cast<size_t>(position)];
    if (entry.column != nullptr) {
      fail(column, entry.context == is_context ? "sent twice" : "sent both as context and as candidate", "once");
    }
    entry = {&column, is_context, out.value_starts.size()};
    check_column(model.inputs[static_cast<size_t>(position)], column, rows, is_context, limits, out.value_starts);
  };
  for (const Column& column : context) add(column, true);
  for (const Column& column : candidates) add(column, false);
  for (size_t i = 0; i < out.inputs.size(); ++i) {
    if (out.inputs[i].column != nullptr || !model.inputs[i].required) continue;
    throw InputError(feature(model.inputs[i].name) + ": not sent; expected it, it is required (type " +
                     std::string(type_name(model.inputs[i].type)) + ")");
  }
}

}  // namespace smt::transform
