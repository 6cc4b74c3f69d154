// Slab -> slot: the layout is described in program.h.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "compiled_program.h"

namespace smt::cpu {
namespace {

uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// The row of the source that column n of a group is.
int64_t source_row(const Matrix& m, int64_t n) { return n % m.split * (m.n / m.split) + n / m.split; }

// Weights [k0, k0 + count) of a row, with the zeros that stand where it has none: in place, or copied into `room`.
const float* weights_at(const Matrix& m, const float* row, int64_t k0, int64_t count, float* room) {
  if (!m.twice && k0 + count <= m.source_k) return row + k0;
  std::fill_n(room, count, 0.0F);
  for (int64_t half = 0; half < (m.twice ? 2 : 1); ++half) {
    const int64_t start = half * (m.k / 2);  // of the row, in k
    const int64_t from = std::max(k0, start), to = std::min(k0 + count, start + m.source_k);
    if (from < to) std::copy_n(row + (from - start), to - from, room + (from - k0));
  }
  return room;
}

// A column of a block is a sequence of words of Unit consecutive k, 4 bytes whatever the precision.
template <int64_t Unit, class Out, class Convert>
void words_of(const float* weights, int64_t n, uint32_t* words, Convert& convert) {
  Out converted[kLanes * Unit];
  static_assert(sizeof converted == kLanes * sizeof *words);
  for (int64_t k = 0; k < kLanes * Unit; ++k) converted[k] = convert(n, weights[k]);
  std::memcpy(words, converted, sizeof converted);
}

// Writes convert(n, weight) for every weight of a group to its packed panels: Unit consecutive k of a column lie
// together, Depth k make a block. Squares of 16 columns and 16 words are turned over in the first-level cache: written
// column by column, every word goes to a cache line of its own, and packing takes longer than hashing what is packed.
template <int64_t Unit, int64_t Depth, class Out, class Convert>
void pack_panels(const Matrix& m, const float* source, std::byte* target, Convert convert) {
  constexpr int64_t kSquare = kLanes * Unit;  // k of a square: a block of them, or several blocks
  const int64_t padded_k = round_up(m.k, std::max<int64_t>(Depth, 4));
  for (int64_t n0 = 0; n0 < m.n; n0 += kLanes) {
    const int64_t panel = n0 / kPanel;
    const int64_t columns = std::min(kPanel, m.n16 - panel * kPanel);
    uint32_t square[kLanes][kLanes] = {};  // [column, word]; columns that there are not stay zero
    std::byte* vector = target + (panel * kPanel * padded_k + n0 % kPanel * Depth) * sizeof(Out);
    for (int64_t k0 = 0; k0 < padded_k; k0 += kSquare) {
      for (int64_t n = n0; n < std::min(n0 + kLanes, m.n); ++n) {
        float room[kSquare];
        const float* row = weights_at(m, source + source_row(m, n) * m.source_k, k0, kSquare, room);
        words_of<Unit, Out>(row, n, square[n - n0], convert);
      }
      const int64_t words = std::min(kSquare, padded_k - k0) / Unit;
      for (int64_t word = 0; word < words; ++word) {
        uint32_t line[kLanes];
        for (int64_t lane = 0; lane < kLanes; ++lane) line[lane] = square[lane][word];
        const int64_t k = k0 + word * Unit;
        std::memcpy(vector + (k / Depth * Depth * columns + k % Depth * kLanes) * sizeof(Out), line, sizeof line);
      }
    }
  }
}

// Of the magnitudes of a row's weights.
struct Magnitudes {
  double sum = 0;
  float largest = 0;
};

Magnitudes magnitudes_of(const float* weights, int64_t count) {
  constexpr int64_t kParts = 8;  // that no sum waits for
  double sums[kParts] = {};
  float largest[kParts] = {};
  auto add = [&](const float* part) {
    for (int64_t i = 0; i < kParts; ++i) {
      const float magnitude = std::fabs(part[i]);
      sums[i] += magnitude;
      largest[i] = std::max(largest[i], magnitude);
    }
  };
  int64_t k = 0;
  for (; k + kParts <= count; k += kParts) add(weights + k);
  float rest[kParts] = {};
  std::copy_n(weights + k, count - k, rest);
  add(rest);
  return {std::accumulate(sums, sums + kParts, 0.0), *std::max_element(largest, largest + kParts)};
}

// Weights as integers, and how large the activations may be that multiply them so that no sum of products exceeds 31
// bits. Both get the same share of these bits: a column's sum of magnitudes, and not k times its largest, bounds it.
void pack_integers(const Matrix& m, const float* slab, std::byte* slot) {
  constexpr double kMostSum = 2147483647.0, kMost = 32767.0;
  constexpr float kLeast = 0x1p-100F;  // a column of smaller weights is worth nothing, and its scale would be subnormal
  std::vector<Magnitudes> columns(static_cast<size_t>(m.groups * m.n));
  double most = 1;  // sum of magnitudes, in units of the largest
  for (int64_t row = 0; row < m.groups * m.n; ++row) {
    Magnitudes& column = columns[static_cast<size_t>(row)];
    column = magnitudes_of(slab + m.weight_source + row * m.source_k, m.source_k);
    if (column.largest >= kLeast) most = std::max(most, column.sum / column.largest);
  }
  const double levels = std::floor(std::min(kMost, std::sqrt(kMostSum / most)));
  // A rounded weight is up to half a unit larger.
  const double sum = levels * most * 1.0001 + 0.5 * static_cast<double>(m.source_k);
  const auto activations = static_cast<float>(std::floor(std::min(kMost, kMostSum / sum)));
  std::memcpy(slot + m.levels, &activations, sizeof activations);
  for (int64_t g = 0; g < m.groups; ++g) {
    auto* scales = reinterpret_cast<float*>(slot + m.scale) + g * m.n16;
    std::vector<float> inverse(static_cast<size_t>(m.n));
    for (int64_t n = 0; n < m.n; ++n) {
      const float largest = columns[static_cast<size_t>(g * m.n + source_row(m, n))].largest;
      if (largest < kLeast) continue;
      scales[n] = largest / static_cast<float>(levels);
      inverse[static_cast<size_t>(n)] = static_cast<float>(levels) / largest;
    }
    pack_panels<2, 32, int16_t>(m, slab + m.weight_source + g * m.n * m.source_k, slot + m.weight + g * m.group_bytes,
                                [&](int64_t n, float weight) {
                                  // 1.5 * 2^23: rounds; the low 16 bits are the integer.
                                  const float rounded = weight * inverse[static_cast<size_t>(n)] + 12582912.0F;
                                  uint32_t bits;
                                  std::memcpy(&bits, &rounded, sizeof bits);
                                  return static_cast<int16_t>(bits);
                                });
  }
}

void pack_matrix(const Matrix& m, const float* slab, Weights16 weights16, std::byte* slot) {
  for (int64_t g = 0; g < m.groups; ++g) {
    const float* source = slab + m.weight_source + g * m.n * m.source_k;
    std::byte* target = slot + m.weight + g * m.group_bytes;
    auto* bias = reinterpret_cast<float*>(slot + m.bias) + g * m.n16;
    for (int64_t n = 0; m.bias_source >= 0 && n < m.n; ++n) bias[n] = slab[m.bias_source + g * m.n + source_row(m, n)];
    if (m.precision == Precision::kFp32) {
      pack_panels<1, 1, float>(m, source, target, [](int64_t, float weight) { return weight; });
    } else if (m.precision == Precision::kBf16 && weights16 == Weights16::kBf16) {
      pack_panels<2, 32, uint16_t>(m, source, target, [](int64_t, float weight) { return to_bf16(weight); });
    } else if (m.precision == Precision::kInt8) {
      auto* scales = reinterpret_cast<float*>(slot + m.scale) + g * m.n16;
      auto* shifts = reinterpret_cast<int32_t*>(slot + m.shift) + g * m.n16;
      for (int64_t n = 0; n < m.n; ++n) {
        const float* row = source + source_row(m, n) * m.source_k;
        float largest = 0;
        for (int64_t k = 0; k < m.source_k; ++k) largest = std::max(largest, std::fabs(row[k]));
        scales[n] = largest / 127.0F;
      }
      pack_panels<4, 64, int8_t>(m, source, target, [&](int64_t n, float weight) {
        float scaled = scales[n] > 0 ? weight / scales[n] : 0.0F;
        auto quantised = static_cast<int8_t>(std::clamp(std::lrintf(scaled), -127L, 127L));
        shifts[n] += 128 * quantised;
        return quantised;
      });
    }
  }
  if (m.precision == Precision::kBf16 && weights16 == Weights16::kIntegers) pack_integers(m, slab, slot);
}

}  // namespace

void CompiledProgram::pack(std::span<const float> slab, Weights16 weights16, std::byte* slot) const {
  const Program& p = program();
  if (static_cast<int64_t>(slab.size()) < p.slab_elements) {
    throw std::invalid_argument("slab: " + std::to_string(slab.size()) + " elements; the program reads " +
                                std::to_string(p.slab_elements));
  }
  std::memset(slot, 0, static_cast<size_t>(p.packed_bytes));
  std::memcpy(slot + p.packed_as, &weights16, sizeof weights16);
  for (const Matrix& m : parts_.matrices) pack_matrix(m, slab.data(), weights16, slot);
  for (const Vector& v : parts_.vectors) {
    for (int64_t g = 0; g < v.groups; ++g) {
      std::memcpy(slot + v.offset + g * v.n16 * 4, slab.data() + v.source + g * v.n, static_cast<size_t>(v.n) * 4);
    }
  }
}

}  // namespace smt::cpu
