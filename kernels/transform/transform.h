// Feature transformations: raw columns of a request or of a training batch -> the template's inputs.
//
// This is the one implementation: training calls it through the Python binding, the server links it. The
// definition it executes is the FeatureSpec JSON that the snapshot carries; reference.py is its specification.
// No dependency on torch, protobuf or Python.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace smt::transform {

// Rows of every categorical feature's table range: [missing, unknown, value 0, value 1, ...].
inline constexpr int64_t kMissingRow = 0;
inline constexpr int64_t kUnknownRow = 1;
inline constexpr int64_t kFirstValueRow = 2;
// A dense value is saturated here after its steps, so that no finite input makes the network overflow.
inline constexpr double kDenseLimit = 1e6;

// A malformed FeatureSpec. The message names the feature and the key.
class SpecError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Input that does not fit the FeatureSpec. The message names the input and says what is accepted.
class InputError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

using FloatValues = std::span<const float>;
using DoubleValues = std::span<const double>;
using IntValues = std::span<const int64_t>;
using StringValues = std::span<const std::string_view>;

// One raw column; views only, the caller keeps the memory alive until the last append() or apply() on it returned.
struct Column {
  std::string_view name;
  std::variant<FloatValues, DoubleValues, IntValues, StringValues> values;
  // Values per row, or empty for exactly one value in every row. 0: missing / empty list.
  std::span<const int32_t> lengths;
};

struct Limits {
  int64_t max_rows = 1 << 20;
  // Longest list of one row that is accepted (the spec's max_length only says how many of them are used).
  int64_t max_list = 1 << 16;
};

// The template's inputs for `rows` candidates, of one request or of several. Reused: clear() keeps the capacity.
//
// Bags: bag 0 is reserved and empty; then, for each append() and each categorical feature in spec order, one bag per
// row if its input was sent as a candidate column, or a single bag for all the rows if it was sent as context or not at
// all; then, in the same way, as many bags as it has slots for each sequence. There are always at least two bags once
// there are rows.
struct Batch {
  int64_t rows = 0;
  int64_t dense_slots = 0;  // these two: of the specs appended, all alike
  int64_t categorical_slots = 0;
  std::vector<float> dense;            // [rows, dense_slots], row-major; unmapped slots are 0
  std::vector<int64_t> ids;            // table rows, bag after bag; pool rows (first_row added) unless local_ids
  std::vector<int64_t> offsets{0, 0};  // [bags + 1], offsets.back() == ids.size()
  std::vector<int64_t> bag_index;      // [rows, categorical_slots], row-major; unmapped slots point to bag 0

  // No rows; the widths stay, and so do the buffers.
  void clear();

  // Appends `count` rows of dense zeros whose slots all point to bag 0, as wide as the rows appended last.
  // Throws only std::bad_alloc, and then the batch is as it was.
  void pad(int64_t count);
};

// What FeatureSpec::check() found: the columns of one request by the spec's inputs. Its members are for FeatureSpec
// alone. Reused: check() keeps the capacity.
//
// It points to the Columns that were checked, which must stay where they are, and their values unchanged, until the
// last append(). Nothing writes to it after check(): any number of threads may append() from it at once.
struct CheckedColumns {
  struct Input {
    const Column* column = nullptr;  // null when an optional input was not sent
    bool context = false;
    size_t starts = 0;  // where its part of value_starts begins, if it has lengths
  };
  std::vector<Input> inputs;
  // For each column with lengths: which value is the first one of rows 0, kStartsEvery, 2 kStartsEvery ..., so that a
  // range of rows is found without adding up all the lengths before it.
  std::vector<int64_t> value_starts;
  static constexpr int64_t kStartsEvery = 16;
};

struct InputInfo {
  std::string name;
  std::string type;  // "number", "int" or "string"
  bool required;
  bool multi_valued;
};

// An immutable, parsed FeatureSpec. Thread-safe: its functions are const and keep their state in `out`.
class FeatureSpec {
 public:
  // Throws SpecError.
  static FeatureSpec parse(std::string_view json);

  FeatureSpec(FeatureSpec&&) noexcept;
  FeatureSpec& operator=(FeatureSpec&&) noexcept;
  ~FeatureSpec();

  int64_t dense_slots() const;
  int64_t categorical_slots() const;
  int64_t table_rows() const;                 // total rows of all categorical features' ranges
  std::span<const InputInfo> inputs() const;  // distinct raw inputs in order of first use

  // Whether a feature reads the raw input of this name.
  bool reads(std::string_view input) const;

  // Validates everything: after it, append() cannot fail for what was sent. `context` columns hold one row each,
  // `candidates` hold `rows`. Throws InputError and leaves `out` unspecified but reusable.
  void check(int64_t rows, std::span<const Column> context, std::span<const Column> candidates, const Limits& limits,
             CheckedColumns& out) const;

  // Transforms rows [first, first + count) of what this spec has checked, which must hold them, and appends them to the
  // rows in `out`: of this spec, or of one with the same numbers of slots. Bags count over the whole batch.
  // local_ids: ids count from 0 in each feature's own table (training) instead of in the pool (serving).
  // Throws only std::bad_alloc, and then `out` is as it was.
  void append(const CheckedColumns& checked, int64_t first, int64_t count, Batch& out, bool local_ids = false) const;

  // check(), then append() of all rows to a cleared `out`.
  // Throws InputError and leaves `out` unspecified but reusable.
  void apply(int64_t rows, std::span<const Column> context, std::span<const Column> candidates, const Limits& limits,
             Batch& out, bool local_ids = false) const;

 private:
  struct Impl;
  explicit FeatureSpec(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace smt::transform
