#include <algorithm>

#include "model.h"

namespace smt::transform {
namespace {

// Room for `more` values, so that a resize() cannot throw. Doubles, so that many appends copy each value a few times.
template <class T>
void make_room(std::vector<T>& values, size_t more) {
  const size_t size = values.size() + more;
  if (size > values.capacity()) values.reserve(std::max(size, 2 * values.capacity()));
}

}  // namespace

void Batch::clear() {
  rows = 0;
  dense.clear();
  ids.clear();
  offsets.resize(2);
  bag_index.clear();
}

void Batch::pad(int64_t count) {
  if (count > 0) extend(*this, count, 0, offsets.size() < 3 ? 1 : 0);
}

void extend(Batch& batch, int64_t rows, size_t ids, size_t offsets) {
  const auto dense = static_cast<size_t>(rows * batch.dense_slots);
  const auto bag_index = static_cast<size_t>(rows * batch.categorical_slots);
  make_room(batch.dense, dense);
  make_room(batch.ids, ids);
  make_room(batch.offsets, offsets);
  make_room(batch.bag_index, bag_index);
  batch.dense.resize(batch.dense.size() + dense);
  batch.ids.resize(batch.ids.size() + ids);
  batch.offsets.resize(batch.offsets.size() + offsets);
  batch.bag_index.resize(batch.bag_index.size() + bag_index);
  batch.rows += rows;
}

}  // namespace smt::transform
