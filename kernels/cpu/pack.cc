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

// Calls place(element offset in the group's packed panels, n, k) for every weight: `unit` consecutive k of a column lie
// together, `depth` k make a block (0: all of k is one block).
template <class Place>
void for_each_weight(const Matrix& m, int64_t unit, int64_t depth, Place&& place) {
  int64_t blocks = depth == 0 ? 1 : (m.k + depth - 1) / depth;
  int64_t block_k = depth == 0 ? (m.k + 3) / 4 * 4 : depth;
  for (int64_t n = 0; n < m.n; ++n) {
    int64_t panel = n / kPanel;
    int64_t columns = std::min(kPanel, m.n16 - panel * kPanel);
    int64_t vectors = columns / kLanes, vector = n % kPanel / kLanes, lane = n % kLanes;
    int64_t start = panel * kPanel * blocks * block_k;
    for (int64_t i = 0; i < (m.twice ? 2 : 1) * m.source_k; ++i) {
      int64_t k = i < m.source_k ? i : i - m.source_k + m.k / 2;
      int64_t at;
      if (depth == 0) {
        at = start + (k * vectors + vector) * kLanes + lane;
      } else {
        int64_t block = k / depth, inside = k % depth;
        at = start + (block * vectors + vector) * depth * kLanes + (inside / unit * kLanes + lane) * unit +
             inside % unit;
      }
      place(at, n, i % m.source_k);
    }
  }
}

void pack_matrix(const Matrix& m, const float* slab, std::byte* slot) {
  for (int64_t g = 0; g < m.groups; ++g) {
    const float* source = slab + m.weight_source + g * m.n * m.source_k;
    std::byte* target = slot + m.weight + g * m.group_bytes;
    auto weight = [&](int64_t n, int64_t k) { return source[source_row(m, n) * m.source_k + k]; };
    auto* bias = reinterpret_cast<float*>(slot + m.bias) + g * m.n16;
    for (int64_t n = 0; m.bias_source >= 0 && n < m.n; ++n) bias[n] = slab[m.bias_source + g * m.n + source_row(m, n)];
    if (m.precision == Precision::kFp32) {
      auto* out = reinterpret_cast<float*>(target);
      for_each_weight(m, 1, 0, [&](int64_t at, int64_t n, int64_t k) { out[at] = weight(n, k); });
    } else if (m.precision == Precision::kBf16) {
      auto* out = reinterpret_cast<uint16_t*>(target);
      for_each_weight(m, 2, 32, [&](int64_t at, int64_t n, int64_t k) { out[at] = to_bf16(weight(n, k)); });
    } else {
      auto* out = reinterpret_cast<int8_t*>(target);
      auto* scales = reinterpret_cast<float*>(slot + m.scale) + g * m.n16;
      auto* shifts = reinterpret_cast<int32_t*>(slot + m.shift) + g * m.n16;
      for (int64_t n = 0; n < m.n; ++n) {
        float largest = 0;
        for (int64_t k = 0; k < m.source_k; ++k) largest = std::max(largest, std::fabs(weight(n, k)));
        scales[n] = largest / 127.0F;
      }
      for_each_weight(m, 4, 64, [&](int64_t at, int64_t n, int64_t k) {
        float scaled = scales[n] > 0 ? weight(n, k) / scales[n] : 0.0F;
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
