// A parsed FeatureSpec, as apply() wants it: inputs by position, defaults already encoded.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "transform.h"
#include "vocabulary.h"

namespace smt::transform {

enum class InputType { kNumber, kInt, kString };

// A raw column that one or more features read.
struct Input {
  std::string name;
  InputType type = InputType::kNumber;
  bool required = false;
  bool multi_valued = true;  // every feature that reads it accepts lists
};

struct Step {
  enum class Op { kLog, kClip, kNormalise };
  Op op;
  double first = 0;   // clip: low;  normalise: mean
  double second = 0;  // clip: high; normalise: standard deviation
};

struct DenseFeature {
  size_t input;
  int64_t slot;
  std::vector<Step> steps;
  float missing;  // what a missing value becomes
};

struct StringVocabulary {
  StringTable table;
};
struct IntVocabulary {
  IntTable table;
};
struct Buckets {
  std::vector<double> boundaries;
};
struct HashBuckets {
  uint64_t size;
  uint64_t seed;
  uint64_t inverse = ~uint64_t{0} / size;  // for a remainder without a division
};
using Encoder = std::variant<StringVocabulary, IntVocabulary, Buckets, HashBuckets>;

struct CategoricalFeature {
  size_t input;
  int64_t slot;
  int64_t first_row;
  bool multi_valued;
  int64_t max_length;
  int64_t missing;  // local row of a missing value; not used when multi_valued
  Encoder encoder;
};

// Values of another input in slots of their own, one after the other, as rows of a categorical feature's range.
struct Sequence {
  size_t input;
  size_t feature;  // position among Model::categorical
  int64_t slot;    // of the first value
  int64_t length;  // slots, and so the values that are used
};

struct Model {
  int64_t dense_slots = 0;
  int64_t categorical_slots = 0;
  int64_t table_rows = 0;
  std::vector<Input> inputs;
  StringTable input_positions;
  std::vector<DenseFeature> dense;
  std::vector<CategoricalFeature> categorical;
  std::vector<Sequence> sequences;
};

// spec.cc. Throws SpecError.
Model parse_model(std::string_view json);

// validate.cc: FeatureSpec::check(). Throws InputError.
void bind(const Model& model, int64_t rows, std::span<const Column> context, std::span<const Column> candidates,
          const Limits& limits, CheckedColumns& out);

// dense.cc. The steps, then saturated and rounded.
float transform_dense(const std::vector<Step>& steps, double value);
// The same of many values, to the bit. Overwrites `values`; `out` has their size.
void transform_dense(const std::vector<Step>& steps, std::span<double> values, float* out);

// encode.cc.
int64_t encode_value(const Encoder& encoder, double value);            // Buckets
int64_t encode_value(const Encoder& encoder, int64_t value);           // IntVocabulary, HashBuckets, Buckets
int64_t encode_value(const Encoder& encoder, std::string_view value);  // StringVocabulary, HashBuckets

// append.cc: FeatureSpec::append(). Throws std::bad_alloc.
void append_rows(const Model& model, const CheckedColumns& checked, int64_t first, int64_t count, bool local_ids,
                 Batch& out);

// batch.cc: makes a batch longer by so many of each, all zeros. Throws std::bad_alloc, and then the batch is as it was.
void extend(Batch& batch, int64_t rows, size_t ids, size_t offsets);

std::string_view type_name(InputType type);

}  // namespace smt::transform
