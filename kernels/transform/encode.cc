// Validated columns -> the template's inputs. Column by column; no allocation per value.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <span>
#include <type_traits>

#include "model.h"

namespace smt::transform {
namespace {

static_assert(std::endian::native == std::endian::little, "ints are hashed as 8 little-endian bytes");

int64_t hash_row(const HashBuckets& buckets, const void* bytes, size_t size) {
  return kFirstValueRow + static_cast<int64_t>(XXH3_64bits_withSeed(bytes, size, buckets.seed) % buckets.size);
}

struct EncodeValue {
  int64_t operator()(const StringVocabulary& vocabulary, std::string_view value) const {
    return row_of(vocabulary.table.find(value));
  }
  int64_t operator()(const IntVocabulary& vocabulary, int64_t value) const {
    return row_of(vocabulary.table.find(value));
  }
  template <class T>
  requires std::is_arithmetic_v<T> int64_t operator()(const Buckets& buckets, T value) const {
    const auto& boundaries = buckets.boundaries;
    return kFirstValueRow +
           (std::upper_bound(boundaries.begin(), boundaries.end(), static_cast<double>(value)) - boundaries.begin());
  }
  int64_t operator()(const HashBuckets& buckets, std::string_view value) const {
    return hash_row(buckets, value.data(), value.size());
  }
  int64_t operator()(const HashBuckets& buckets, int64_t value) const {
    return hash_row(buckets, &value, sizeof(value));
  }

  static int64_t row_of(int64_t position) { return position < 0 ? kUnknownRow : kFirstValueRow + position; }
};

// parse_model() admits an encoder only for types it can encode, and bind() a column only of the input's type; so for
// a pair that does not exist any answer will do. Without this, std::visit would not compile. An int vocabulary or a
// hash would take a double by conversion: excluded by exact type.
template <class E, class T>
inline constexpr bool kEncodes = std::is_same_v<E, Buckets>
                                     ? std::is_arithmetic_v<T>
                                     : (std::is_same_v<T, std::string_view> && !std::is_same_v<E, IntVocabulary>) ||
                                           (std::is_same_v<T, int64_t> && !std::is_same_v<E, StringVocabulary>);

template <class T>
int64_t encode_any(const Encoder& encoder, T value) {
  return std::visit(
      [value](const auto& e) -> int64_t {
        if constexpr (kEncodes<std::decay_t<decltype(e)>, T>) return EncodeValue()(e, value);
        return kUnknownRow;
      },
      encoder);
}

// out[i] = base + the row of values[i].
template <class E, class T>
void encode_all(const E& encoder, std::span<const T> values, int64_t base, int64_t* out) {
  if constexpr (std::is_same_v<E, StringVocabulary> || std::is_same_v<E, IntVocabulary>) {
    // A large vocabulary is out of cache, so every lookup would wait for memory: ask for a block's slots at once.
    constexpr size_t kBlock = 32;
    std::array<uint64_t, kBlock> hashes;
    while (!values.empty()) {
      const auto block = values.first(std::min(kBlock, values.size()));
      for (size_t i = 0; i < block.size(); ++i) encoder.table.prefetch(hashes[i] = encoder.table.hash(block[i]));
      for (size_t i = 0; i < block.size(); ++i) encoder.table.prefetch_key(hashes[i]);
      for (size_t i = 0; i < block.size(); ++i) {
        *out++ = base + EncodeValue::row_of(encoder.table.find(block[i], hashes[i]));
      }
      values = values.subspan(block.size());
    }
  } else {
    for (const T& value : values) *out++ = base + EncodeValue()(encoder, value);
  }
}

class Writer {
 public:
  Writer(const Model& model, const std::vector<Bound>& bound, int64_t rows, bool local_ids, Batch& out)
      : model_(model), bound_(bound), rows_(rows), local_ids_(local_ids), out_(out) {}

  void write() {
    out_.rows = rows_;
    out_.dense.assign(static_cast<size_t>(rows_ * model_.dense_slots), 0.0f);
    for (const DenseFeature& feature : model_.dense) write_dense(feature);

    size_ids_and_offsets();
    // Bag 0: reserved, empty.
    *offset_++ = 0;
    *offset_++ = 0;
    // By slot: the bag of row 0 and the step from one row's bag to the next one's; slots without a feature: bag 0.
    std::vector<std::pair<int64_t, int64_t>> bags(static_cast<size_t>(model_.categorical_slots));
    for (const CategoricalFeature& feature : model_.categorical) {
      const int64_t first_bag = offset_ - out_.offsets.data() - 1;
      bags[static_cast<size_t>(feature.slot)] = {first_bag, bag_count(feature) > 1 ? 1 : 0};
      write_categorical(feature);
    }
    const int64_t ids = id_ - out_.ids.data();
    while (offset_ != out_.offsets.data() + out_.offsets.size()) *offset_++ = ids;
    out_.ids.resize(static_cast<size_t>(ids));
    write_bag_index(bags);
  }

 private:
  const Bound& bound(size_t input) const { return bound_[input]; }

  int64_t bag_count(const CategoricalFeature& feature) const {
    const Bound& b = bound(feature.input);
    return b.column == nullptr || b.context ? 1 : rows_;
  }

  // An upper bound of ids and the exact number of bags: one resize per call and none at all on reuse.
  void size_ids_and_offsets() {
    size_t ids = 0;
    int64_t bags = 1;
    for (const CategoricalFeature& feature : model_.categorical) {
      const Bound& b = bound(feature.input);
      const int64_t count = bag_count(feature);
      bags += count;
      if (!feature.multi_valued) {
        ids += static_cast<size_t>(count);
      } else if (b.column != nullptr) {
        ids += std::visit([](const auto& v) { return v.size(); }, b.column->values);
      }
    }
    out_.ids.resize(ids);
    out_.offsets.resize(static_cast<size_t>(std::max<int64_t>(bags, 2)) + 1);
    id_ = out_.ids.data();
    offset_ = out_.offsets.data();
  }

  void write_dense(const DenseFeature& feature) {
    const Bound& b = bound(feature.input);
    float* out = out_.dense.data() + feature.slot;
    if (b.column == nullptr) return fill(out, feature.missing);
    std::visit(
        [&](const auto& values) {
          using T = typename std::decay_t<decltype(values)>::value_type;
          if constexpr (std::is_arithmetic_v<T>) {
            const auto& lengths = b.column->lengths;
            if (b.context) {
              const bool missing = !lengths.empty() && lengths[0] == 0;
              return fill(out, missing ? feature.missing : transform_dense(feature.steps, values[0]));
            }
            const T* value = values.data();
            for (int64_t row = 0; row < rows_; ++row) {
              const bool missing = !lengths.empty() && lengths[static_cast<size_t>(row)] == 0;
              out[row * model_.dense_slots] =
                  missing ? feature.missing : transform_dense(feature.steps, static_cast<double>(*value++));
            }
          }
        },
        b.column->values);
  }

  void fill(float* out, float value) const {
    for (int64_t row = 0; row < rows_; ++row) out[row * model_.dense_slots] = value;
  }

  void write_categorical(const CategoricalFeature& feature) {
    const Bound& b = bound(feature.input);
    const int64_t base = local_ids_ ? 0 : feature.first_row;
    if (b.column == nullptr) {
      if (!feature.multi_valued) *id_++ = base + feature.missing;
      *offset_++ = id_ - out_.ids.data();
      return;
    }
    const auto bags = static_cast<size_t>(bag_count(feature));
    std::visit(
        [&](const auto& encoder, const auto& values) {
          using E = std::decay_t<decltype(encoder)>;
          using T = typename std::decay_t<decltype(values)>::value_type;
          if constexpr (kEncodes<E, T>) {
            if (feature.multi_valued) {
              write_lists(feature, encoder, values, b.column->lengths, base, bags);
            } else {
              write_single(feature, encoder, values, b.column->lengths, base, bags);
            }
          }
        },
        feature.encoder, b.column->values);
  }

  template <class E, class T>
  void write_single(const CategoricalFeature& feature, const E& encoder, std::span<const T> values,
                    std::span<const int32_t> lengths, int64_t base, size_t bags) {
    // The values go to the end of the bags' range and are then spread over it from the front, around the missing
    // ones: a value never has to move backwards past one that is still to be read.
    const int64_t* next = id_ + (bags - values.size());
    encode_all(encoder, values, base, id_ + (bags - values.size()));
    if (values.size() < bags) {
      for (size_t row = 0; row < bags; ++row) id_[row] = lengths[row] == 0 ? base + feature.missing : *next++;
    }
    const int64_t begin = id_ - out_.ids.data();
    for (size_t row = 0; row < bags; ++row) offset_[row] = begin + static_cast<int64_t>(row) + 1;
    id_ += bags;
    offset_ += bags;
  }

  template <class E, class T>
  void write_lists(const CategoricalFeature& feature, const E& encoder, std::span<const T> values,
                   std::span<const int32_t> lengths, int64_t base, size_t bags) {
    for (size_t row = 0; row < bags; ++row) {
      const size_t length = lengths.empty() ? 1 : static_cast<size_t>(lengths[row]);
      const size_t used = std::min(length, static_cast<size_t>(feature.max_length));
      encode_all(encoder, values.first(used), base, id_);
      id_ += used;
      values = values.subspan(length);
      *offset_++ = id_ - out_.ids.data();
    }
  }

  void write_bag_index(const std::vector<std::pair<int64_t, int64_t>>& bags) {
    out_.bag_index.resize(static_cast<size_t>(rows_) * bags.size());
    int64_t* out = out_.bag_index.data();
    for (int64_t row = 0; row < rows_; ++row) {
      for (const auto& [first, step] : bags) *out++ = first + step * row;
    }
  }

  const Model& model_;
  const std::vector<Bound>& bound_;
  const int64_t rows_;
  const bool local_ids_;
  Batch& out_;
  int64_t* id_ = nullptr;
  int64_t* offset_ = nullptr;
};

}  // namespace

float transform_dense(const std::vector<Step>& steps, double value) {
  for (const Step& step : steps) {
    switch (step.op) {
      case Step::Op::kLog:
        value = std::copysign(std::log1p(std::abs(value)), value);
        break;
      case Step::Op::kClip:
        value = std::min(std::max(value, step.first), step.second);
        break;
      case Step::Op::kNormalise:
        value = (value - step.first) / step.second;
        break;
    }
  }
  return static_cast<float>(std::min(std::max(value, -kDenseLimit), kDenseLimit));
}

int64_t encode_value(const Encoder& encoder, double value) { return encode_any(encoder, value); }
int64_t encode_value(const Encoder& encoder, int64_t value) { return encode_any(encoder, value); }
int64_t encode_value(const Encoder& encoder, std::string_view value) { return encode_any(encoder, value); }

void encode(const Model& model, const std::vector<Bound>& bound, int64_t rows, bool local_ids, Batch& out) {
  Writer(model, bound, rows, local_ids, out).write();
}

}  // namespace smt::transform
