#include "chain_weights.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <ranges>
#include <vector>

#include "delta_file.h"
#include "refusal.h"
#include "weights_file.h"

namespace smt::server {
namespace {

constexpr auto kFloat = static_cast<int64_t>(sizeof(float));

void expect(int64_t found, int64_t expected, const std::string& shown, const std::string& what) {
  if (found == expected) return;
  throw Refused(Reason::kWeights,
                shown + ": " + what + ": found " + std::to_string(found) + "; expected " + std::to_string(expected));
}

// Memory of the arena, or Refused(kIo) with its message.
template <typename Allocate>
auto allocated(const std::string& shown, Allocate&& allocate) {
  try {
    return allocate();
  } catch (const ArenaError& error) {
    throw Refused(Reason::kIo, shown + ": " + error.what());
  }
}

// A delta that adds rows brings all of them, and none lies beyond the table.
void check_rows(const std::vector<int64_t>& rows, int64_t rows_below, int64_t table_rows, const std::string& shown) {
  if (!rows.empty() && rows.back() >= table_rows) {
    throw Refused(Reason::kWeights, shown + ": tensor 'rows': found row " + std::to_string(rows.back()) +
                                        "; expected 0.." + std::to_string(table_rows - 1) + ", the table's rows");
  }
  auto first_new = std::ranges::lower_bound(rows, rows_below);
  expect(std::distance(first_new, rows.end()), table_rows - rows_below, shown,
         "rows in tensor 'rows' from " + std::to_string(rows_below) + " on, where the table of its base ends");
}

class ChainReader {
 public:
  ChainReader(const Registry& registry, const TemplateBinary& binary, Reading reading)
      : registry_(registry),
        binary_(binary),
        elements_(static_cast<size_t>(binary.manifest().slab_elements)),
        slab_(std::make_unique_for_overwrite<float[]>(elements_)),
        reading_(std::move(reading)) {}

  // The table goes from the file into the first rows of `slot`, which allocate() makes.
  void whole(const ChainLink& link, const std::function<std::span<float>(const std::string& shown)>& table) {
    std::filesystem::path path = file_of(link);
    std::string shown = registry_.shown(path);
    auto place = [&](const WeightShapes& found) -> WeightPlaces {
      expect_slab_and_dim(found.slab_elements, found.dim, "table", shown);
      expect(found.table_rows, link.table_rows(), shown, "rows of tensor 'table'");
      return {slab(), table(shown)};
    };
    read_weights(path, shown, link.manifest.weights, place, reading_);
  }

  // Returns which rows `link` changes; `values` makes room for them.
  std::vector<int64_t> delta(const ChainLink& link, int64_t rows_below,
                             const std::function<std::span<float>(int64_t rows, const std::string& shown)>& values) {
    std::filesystem::path path = file_of(link);
    std::string shown = registry_.shown(path);
    auto place = [&](const DeltaShapes& found) -> DeltaPlaces {
      expect_slab_and_dim(found.slab_elements, found.dim, "values", shown);
      if (found.rows > link.table_rows()) {
        throw Refused(Reason::kWeights, shown + ": tensor 'rows': found " + std::to_string(found.rows) +
                                            " rows; expected at most the table's " + std::to_string(link.table_rows()));
      }
      return {slab(), values(found.rows, shown)};
    };
    std::vector<int64_t> rows = read_delta(path, shown, link.manifest.weights, place, reading_);
    check_rows(rows, rows_below, link.table_rows(), shown);
    return rows;
  }

  // Of the link that was read last.
  void pack(WeightSlot& slot) const { binary_.pack({slab_.get(), elements_}, slot); }

 private:
  std::filesystem::path file_of(const ChainLink& link) const { return link.folder / link.manifest.weights.name; }
  std::span<float> slab() { return {slab_.get(), elements_}; }
  void expect_slab_and_dim(int64_t elements, int64_t dim, const std::string& table, const std::string& shown) const {
    expect(elements, binary_.manifest().slab_elements, shown, "elements of tensor 'slab'");
    expect(dim, binary_.manifest().dim, shown, "columns of tensor '" + table + "'");
  }

  const Registry& registry_;
  const TemplateBinary& binary_;
  const size_t elements_;
  // On the heap, which keeps such a block from load to load: clearing fresh pages takes as long as hashing them.
  const std::unique_ptr<float[]> slab_;
  const Reading reading_;
};

}  // namespace

// A delta's file bounds its rows and what is kept of them: a row's values and, in the map, 8 bytes.
LoadBytes bytes_of_whole(std::span<const ChainLink> chain, const BinaryManifest& abi) {
  int64_t largest = 0;
  for (const ChainLink& link : chain.first(chain.size() - 1)) {
    largest = std::max(largest, static_cast<int64_t>(link.manifest.weights.bytes));
  }
  return {.resident = abi.packed_bytes + chain.front().table_rows() * abi.dim * kFloat,
          .passing = abi.slab_elements * kFloat + 2 * largest};
}

LoadBytes bytes_of_deltas(std::span<const ChainLink> deltas, const LoadedSnapshot& below) {
  const BinaryManifest& abi = below.binary->manifest();
  int64_t files = 0;
  for (const ChainLink& link : deltas) files += static_cast<int64_t>(link.manifest.weights.bytes);
  int64_t map = deltas.front().table_rows() / 4;
  if (below.overlay) map += below.overlay->changed_rows() * static_cast<int64_t>(sizeof(int64_t));
  return {.resident = abi.packed_bytes + 2 * files + map, .passing = abi.slab_elements * kFloat + files};
}

ChainWeights read_whole(const Registry& registry, std::span<const ChainLink> chain, const TemplateBinary& binary,
                        Reading reading) {
  ChainReader reader(registry, binary, std::move(reading));
  const auto dim = static_cast<size_t>(binary.manifest().dim);
  WeightSlot slot;
  reader.whole(chain.back(), [&](const std::string& shown) {
    slot = allocated(shown, [&] { return binary.allocate(chain.front().table_rows()); });
    return slot.table().first(static_cast<size_t>(chain.back().table_rows()) * dim);
  });
  std::vector<float> values;
  int64_t rows_below = chain.back().table_rows();
  for (const ChainLink& link : std::ranges::reverse_view(chain.first(chain.size() - 1))) {
    std::vector<int64_t> rows = reader.delta(link, rows_below, [&](int64_t count, const std::string&) {
      values.resize(static_cast<size_t>(count) * dim);
      return std::span(values);
    });
    for (size_t i = 0; i < rows.size(); ++i) {
      std::copy_n(values.data() + i * dim, dim, slot.table().data() + static_cast<size_t>(rows[i]) * dim);
    }
    rows_below = link.table_rows();
  }
  reader.pack(slot);
  return {.slot = std::move(slot), .overlay = nullptr};
}

ChainWeights read_deltas(const Registry& registry, std::span<const ChainLink> deltas, const LoadedSnapshot& below,
                         Reading reading) {
  const TemplateBinary& binary = *below.binary;
  ChainReader reader(registry, binary, std::move(reading));
  std::vector<DeltaRows> changed;
  int64_t rows_below = below.table_rows();
  for (const ChainLink& link : std::ranges::reverse_view(deltas)) {
    std::shared_ptr<PoolRange> values;
    std::vector<int64_t> rows = reader.delta(link, rows_below, [&](int64_t count, const std::string& shown) {
      values = allocated(shown, [&] { return binary.allocate_rows(count); });
      return values->values();
    });
    changed.push_back({std::move(rows), std::move(values)});
    rows_below = link.table_rows();
  }
  const std::shared_ptr<PoolRange>& table = below.weights.range();
  WeightSlot slot = allocated(deltas.front().manifest.version, [&] { return WeightSlot::over(table); });
  reader.pack(slot);
  return {.slot = std::move(slot),
          .overlay = std::make_unique<RowOverlay>(*table, below.overlay.get(), changed, rows_below)};
}

}  // namespace smt::server
