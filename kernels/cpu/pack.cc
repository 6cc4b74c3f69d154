// Slab -> slot: the layout is described in program.h.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "compiled_program.h"

namespace smt::cpu {
namespace {

uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// The row of the source that column n of a group is.
int64_t source_row(const Matrix& m, int64_t n) { return n % m.split * (m.n / m.split) + n / m.split; }

// Calls place(element offset in the group's packed panels, n, weight) for every weight: Unit consecutive k of a column
// lie together, Depth k make a block (0: all of k is one block). What is the same for a column, or known when this is
// compiled, stays out of the inner loop: with divisions in it, packing takes longer than hashing what is packed.
template <int64_t Unit, int64_t Depth, class Place>
void for_each_weight(const Matrix& m, const float* source, Place&& place) {
  const int64_t blocks = Depth == 0 ? 1 : (m.k + Depth - 1) / std::max<int64_t>(Depth, 1);
  const int64_t block_k = Depth == 0 ? (m.k + 3) / 4 * 4 : Depth;
  for (int64_t n = 0; n < m.n; ++n) {
    const float* row = source + source_row(m, n) * m.source_k;
    const int64_t panel = n / kPanel;
    const int64_t columns = std::min(kPanel, m.n16 - panel * kPanel);
    const int64_t vectors = columns / kLanes, vector = n % kPanel / kLanes, lane = n % kLanes;
    const int64_t start = panel * kPanel * blocks * block_k;
    for (int64_t half = 0; half < (m.twice ? 2 : 1); ++half) {
      for (int64_t i = 0; i < m.source_k; ++i) {
        const int64_t k = i + half * (m.k / 2);
        if constexpr (Depth == 0) {
          place(start + (k * vectors + vector) * kLanes + lane, n, row[i]);
        } else {
          const int64_t block = k / Depth, inside = k % Depth;
          const int64_t unit = (inside / Unit * kLanes + lane) * Unit + inside % Unit;
          place(start + (block * vectors + vector) * Depth * kLanes + unit, n, row[i]);
        }
      }
    }
  }
}

void pack_matrix(const Matrix& m, const float* slab, std::byte* slot) {
  for (int64_t g = 0; g < m.groups; ++g) {
    const float* source = slab + m.weight_source + g * m.n * m.source_k;
    std::byte* target = slot + m.weight + g * m.group_bytes;
    auto* bias = reinterpret_cast<float*>(slot + m.bias) + g * m.n16;
    for (int64_t n = 0; m.bias_source >= 0 && n < m.n; ++n) bias[n] = slab[m.bias_source + g * m.n + source_row(m, n)];
    if (m.precision == Precision::kFp32) {
      auto* out = reinterpret_cast<float*>(target);
      for_each_weight<1, 0>(m, source, [&](int64_t at, int64_t, float weight) { out[at] = weight; });
    } else if (m.precision == Precision::kBf16) {
      auto* out = reinterpret_cast<uint16_t*>(target);
      for_each_weight<2, 32>(m, source, [&](int64_t at, int64_t, float weight) { out[at] = to_bf16(weight); });
    } else {
      auto* out = reinterpret_cast<int8_t*>(target);
      auto* scales = reinterpret_cast<float*>(slot + m.scale) + g * m.n16;
      auto* shifts = reinterpret_cast<int32_t*>(slot + m.shift) + g * m.n16;
      for (int64_t n = 0; n < m.n; ++n) {
        const float* row = source + source_row(m, n) * m.source_k;
        float largest = 0;
        for (int64_t k = 0; k < m.source_k; ++k) largest = std::max(largest, std::fabs(row[k]));
        scales[n] = largest / 127.0F;
      }
      for_each_weight<4, 64>(m, source, [&](int64_t at, int64_t n, float weight) {
        float scaled = scales[n] > 0 ? weight / scales[n] : 0.0F;
        out[at] = static_cast<int8_t>(std::clamp(std::lrintf(scaled), -127L, 127L));
        shifts[n] += 128 * out[at];
      });
    }
  }
}

}  // namespace

void CompiledProgram::pack(std::span<const float> slab, std::byte* slot) const {
  const Program& p = program();
  if (static_cast<int64_t>(slab.size()) < p.slab_elements) {
    throw std::invalid_argument("slab: " + std::to_string(slab.size()) + " elements; the program reads " +
                                std::to_string(p.slab_elements));
  }
  std::memset(slot, 0, static_cast<size_t>(p.packed_bytes));
  for (const Matrix& m : parts_.matrices) pack_matrix(m, slab.data(), slot);
  for (const Vector& v : parts_.vectors) {
    for (int64_t g = 0; g < v.groups; ++g) {
      std::memcpy(slot + v.offset + g * v.n16 * 4, slab.data() + v.source + g * v.n, static_cast<size_t>(v.n) * 4);
    }
  }
}

}  // namespace smt::cpu
