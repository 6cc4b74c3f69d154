// Validated columns -> the template's inputs. Column by column; no allocation per value.
#include <algorithm>
#include <array>
#include <numeric>
#include <span>
#include <type_traits>

#include "encode.h"
#include "model.h"

namespace smt::transform {
namespace {

// What of a column belongs to a range of rows.
template <class T>
struct Range {
  std::span<const T> values;
  std::span<const int32_t> lengths;  // empty: one value in every row
};

class Writer {
 public:
  Writer(const Model& model, const CheckedColumns& checked, int64_t first, int64_t count, bool local_ids, Batch& out)
      : model_(model), checked_(checked), first_(first), rows_(count), local_ids_(local_ids), out_(out) {}

  void write() {
    out_.dense_slots = model_.dense_slots;
    out_.categorical_slots = model_.categorical_slots;
    if (rows_ == 0) return;
    const size_t dense = out_.dense.size();
    const size_t ids = out_.ids.size();
    const size_t offsets = out_.offsets.size();
    const size_t bag_index = out_.bag_index.size();
    extend_batch();
    for (const DenseFeature& feature : model_.dense) {
      write_dense(feature, out_.dense.data() + dense + feature.slot);
    }

    id_ = out_.ids.data() + ids;
    offset_ = out_.offsets.data() + offsets;
    int64_t* const first_bags = out_.bag_index.data() + bag_index;
    // Row 0's and row 1's bags; the step from one to the other is the same for all rows. Slots without a feature: 0.
    for (const CategoricalFeature& feature : model_.categorical) {
      const int64_t bag = offset_ - out_.offsets.data() - 1;
      first_bags[feature.slot] = bag;
      if (rows_ > 1) first_bags[model_.categorical_slots + feature.slot] = bag + (per_row(feature.input) ? 1 : 0);
      write_categorical(feature);
    }
    for (const Sequence& sequence : model_.sequences) {
      const int64_t bag = offset_ - out_.offsets.data() - 1;
      const int64_t step = per_row(sequence.input) ? sequence.length : 0;
      for (int64_t i = 0; i < sequence.length; ++i) {
        first_bags[sequence.slot + i] = bag + i;
        if (rows_ > 1) first_bags[model_.categorical_slots + sequence.slot + i] = bag + i + step;
      }
      write_sequence(sequence);
    }
    const int64_t end = id_ - out_.ids.data();
    while (offset_ != out_.offsets.data() + out_.offsets.size()) *offset_++ = end;
    out_.ids.resize(static_cast<size_t>(end));
    repeat_bags(first_bags);
  }

 private:
  bool per_row(size_t input) const {
    const CheckedColumns::Input& sent = checked_.inputs[input];
    return sent.column != nullptr && !sent.context;
  }

  // Of a categorical feature; of a sequence in each of its slots.
  int64_t bag_count(size_t input) const { return per_row(input) ? rows_ : 1; }

  // Position of the first value of `row`, which may be the one after the last, of a candidate column.
  int64_t value_start(const CheckedColumns::Input& sent, int64_t row) const {
    if (sent.column->lengths.empty()) return row;
    const int64_t block = row / CheckedColumns::kStartsEvery;
    int64_t start = checked_.value_starts[sent.starts + static_cast<size_t>(block)];
    for (int64_t r = block * CheckedColumns::kStartsEvery; r < row; ++r) {
      start += sent.column->lengths[static_cast<size_t>(r)];
    }
    return start;
  }

  // What of a sent column belongs to this range of rows: all of it if it is context.
  template <class T>
  Range<T> range(const CheckedColumns::Input& sent, std::span<const T> values) const {
    const auto& lengths = sent.column->lengths;
    if (sent.context) return {values, lengths};
    const int64_t start = value_start(sent, first_);
    const int64_t end = value_start(sent, first_ + rows_);
    return {values.subspan(static_cast<size_t>(start), static_cast<size_t>(end - start)),
            lengths.empty() ? lengths : lengths.subspan(static_cast<size_t>(first_), static_cast<size_t>(rows_))};
  }

  size_t value_count(size_t input) const {
    const CheckedColumns::Input& sent = checked_.inputs[input];
    if (sent.column == nullptr) return 0;
    return std::visit([&](const auto& values) { return range(sent, values).values.size(); }, sent.column->values);
  }

  // By an upper bound of ids and the exact number of bags. Allocates only while the buffers are still growing.
  void extend_batch() {
    size_t ids = 0;
    size_t bags = 0;
    for (const CategoricalFeature& feature : model_.categorical) {
      const auto count = static_cast<size_t>(bag_count(feature.input));
      bags += count;
      ids += feature.multi_valued ? value_count(feature.input) : count;
    }
    for (const Sequence& sequence : model_.sequences) {
      bags += static_cast<size_t>(bag_count(sequence.input) * sequence.length);
      ids += value_count(sequence.input);
    }
    if (bags == 0 && out_.offsets.size() < 3) bags = 1;
    extend(out_, rows_, ids, bags);
  }

  void write_dense(const DenseFeature& feature, float* out) const {
    const CheckedColumns::Input& sent = checked_.inputs[feature.input];
    if (sent.column == nullptr) return fill(out, feature.missing);
    std::visit(
        [&](const auto& values) {
          using T = typename std::decay_t<decltype(values)>::value_type;
          if constexpr (std::is_arithmetic_v<T>) {
            const Range<T> part = range(sent, values);
            if (!sent.context) return write_dense_rows(feature, part, out);
            fill(out, part.values.empty() ? feature.missing
                                          : transform_dense(feature.steps, static_cast<double>(part.values[0])));
          }
        },
        sent.column->values);
  }

  template <class T>
  void write_dense_rows(const DenseFeature& feature, Range<T> part, float* out) const {
    constexpr int64_t kBlock = 64;
    std::array<double, kBlock> raw;
    std::array<float, kBlock> done;
    const int64_t stride = model_.dense_slots;
    for (int64_t row = 0; row < rows_; row += kBlock) {
      const auto rows = static_cast<size_t>(std::min(kBlock, rows_ - row));
      size_t count = rows;
      std::span<const int32_t> lengths;
      if (!part.lengths.empty()) {
        lengths = part.lengths.subspan(static_cast<size_t>(row), rows);
        count = static_cast<size_t>(std::accumulate(lengths.begin(), lengths.end(), int32_t{0}));
      }
      for (size_t i = 0; i < count; ++i) raw[i] = static_cast<double>(part.values[i]);
      transform_dense(feature.steps, std::span(raw).first(count), done.data());
      part.values = part.values.subspan(count);
      if (count == rows) {
        for (size_t i = 0; i < rows; ++i, out += stride) *out = done[i];
      } else {
        for (size_t i = 0, value = 0; i < rows; value += static_cast<size_t>(lengths[i]), ++i, out += stride) {
          *out = lengths[i] == 0 ? feature.missing : done[value];
        }
      }
    }
  }

  void fill(float* out, float value) const {
    for (int64_t row = 0; row < rows_; ++row) out[row * model_.dense_slots] = value;
  }

  void write_categorical(const CategoricalFeature& feature) {
    const CheckedColumns::Input& sent = checked_.inputs[feature.input];
    const int64_t base = local_ids_ ? 0 : feature.first_row;
    if (sent.column == nullptr) {
      if (!feature.multi_valued) *id_++ = base + feature.missing;
      *offset_++ = id_ - out_.ids.data();
      return;
    }
    const auto bags = static_cast<size_t>(bag_count(feature.input));
    std::visit(
        [&](const auto& encoder, const auto& values) {
          using E = std::decay_t<decltype(encoder)>;
          using T = typename std::decay_t<decltype(values)>::value_type;
          if constexpr (kEncodes<E, T>) {
            if (feature.multi_valued) {
              write_lists(feature, encoder, range(sent, values), base, bags);
            } else {
              write_single(feature, encoder, range(sent, values), base, bags);
            }
          }
        },
        feature.encoder, sent.column->values);
  }

  template <class E, class T>
  void write_single(const CategoricalFeature& feature, const E& encoder, const Range<T>& part, int64_t base,
                    size_t bags) {
    // The values go to the end of the bags' range and are then spread over it from the front, around the missing
    // ones: a value never has to move backwards past one that is still to be read.
    const int64_t* next = id_ + (bags - part.values.size());
    encode_all(encoder, part.values, base, id_ + (bags - part.values.size()));
    if (part.values.size() < bags) {
      for (size_t row = 0; row < bags; ++row) id_[row] = part.lengths[row] == 0 ? base + feature.missing : *next++;
    }
    const int64_t begin = id_ - out_.ids.data();
    for (size_t row = 0; row < bags; ++row) offset_[row] = begin + static_cast<int64_t>(row) + 1;
    id_ += bags;
    offset_ += bags;
  }

  template <class E, class T>
  void write_lists(const CategoricalFeature& feature, const E& encoder, const Range<T>& part, int64_t base,
                   size_t bags) {
    std::span<const T> values = part.values;
    for (size_t row = 0; row < bags; ++row) {
      const size_t length = part.lengths.empty() ? 1 : static_cast<size_t>(part.lengths[row]);
      const size_t used = std::min(length, static_cast<size_t>(feature.max_length));
      encode_all(encoder, values.first(used), base, id_);
      id_ += used;
      values = values.subspan(length);
      *offset_++ = id_ - out_.ids.data();
    }
  }

  void write_sequence(const Sequence& sequence) {
    const CheckedColumns::Input& sent = checked_.inputs[sequence.input];
    if (sent.column == nullptr) {
      offset_ = std::fill_n(offset_, sequence.length, id_ - out_.ids.data());
      return;
    }
    const CategoricalFeature& feature = model_.categorical[sequence.feature];
    const int64_t base = local_ids_ ? 0 : feature.first_row;
    std::visit(
        [&](const auto& encoder, const auto& values) {
          using E = std::decay_t<decltype(encoder)>;
          using T = typename std::decay_t<decltype(values)>::value_type;
          if constexpr (kEncodes<E, T>) write_positions(sequence, encoder, range(sent, values), base);
        },
        feature.encoder, sent.column->values);
  }

  // A bag for each position of each row: of one value, or empty behind the row's last.
  template <class E, class T>
  void write_positions(const Sequence& sequence, const E& encoder, const Range<T>& part, int64_t base) {
    std::span<const T> values = part.values;
    for (int64_t row = 0; row < bag_count(sequence.input); ++row) {
      const size_t length = part.lengths.empty() ? 1 : static_cast<size_t>(part.lengths[static_cast<size_t>(row)]);
      const auto used = static_cast<int64_t>(std::min(length, static_cast<size_t>(sequence.length)));
      encode_all(encoder, values.first(static_cast<size_t>(used)), base, id_);
      const int64_t begin = id_ - out_.ids.data();
      for (int64_t i = 0; i < sequence.length; ++i) *offset_++ = begin + std::min(i + 1, used);
      id_ += used;
      values = values.subspan(length);
    }
  }

  // Rows 2 and on of this range, from rows 0 and 1.
  void repeat_bags(int64_t* bags) const {
    const int64_t slots = model_.categorical_slots;
    const int64_t* const first = bags;
    const int64_t* const second = bags + slots;
    for (int64_t row = 2; row < rows_; ++row) {
      int64_t* __restrict out = bags + row * slots;
      const int64_t* before = out - slots;
      for (int64_t slot = 0; slot < slots; ++slot) out[slot] = before[slot] + (second[slot] - first[slot]);
    }
  }

  const Model& model_;
  const CheckedColumns& checked_;
  const int64_t first_;
  const int64_t rows_;
  const bool local_ids_;
  Batch& out_;
  int64_t* id_ = nullptr;
  int64_t* offset_ = nullptr;
};

}  // namespace

void append_rows(const Model& model, const CheckedColumns& checked, int64_t first, int64_t count, bool local_ids,
                 Batch& out) {
  Writer(model, checked, first, count, local_ids, out).write();
}

}  // namespace smt::transform
