// `experts` on a tile: MMoE (doi 10.1145/3219819.3220007; reference.py is the specification).
#pragma once

#include "../cpu/tile.h"

namespace smt::cpu {
namespace {

// gates[rows, tasks * experts]: softmax over the experts of each task.
template <class P>
void softmax_gates(const Tile<P>& t, const Step& step) {
  float* gates = t.floats(step.gate_buffer);
  int64_t stride = t.stride(step.gate_buffer);
  for (int64_t r = 0; r < t.rows; ++r) {
    float* row = gates + r * stride;
    for (int64_t task = 0; task < step.tasks; ++task) {
      float* gate = row + task * step.experts;
      float largest = gate[0];
      for (int64_t e = 1; e < step.experts; ++e) largest = gate[e] > largest ? gate[e] : largest;
      for (int64_t e = 0; e < step.experts; ++e) gate[e] -= largest;
    }
    for (int64_t i = 0; i < step.gate.n16; i += kLanes) store(row + i, exp(load(row + i)));
    for (int64_t task = 0; task < step.tasks; ++task) {
      float* gate = row + task * step.experts;
      float total = 0;
      for (int64_t e = 0; e < step.experts; ++e) total += gate[e];
      float inverse = 1.0F / total;
      for (int64_t e = 0; e < step.experts; ++e) gate[e] *= inverse;
    }
  }
}

// out[rows, tasks, n] = Σ_e gate[task, e] * expert[e]; a few tasks at a time keep their sums in registers.
template <class P, int Tasks>
SMT_INLINE void mix_tasks(const float* gate, int64_t experts, const typename P::Act* h, int64_t h_stride,
                          typename P::Act* out, int64_t out_stride, int64_t n16) {
  for (int64_t n = 0; n < n16; n += kLanes) {
    v16f sums[Tasks] = {};
    for (int64_t e = 0; e < experts; ++e) {
      v16f x = load(h + e * h_stride + n);
      for (int task = 0; task < Tasks; ++task) sums[task] += gate[task * experts + e] * x;
    }
    for (int task = 0; task < Tasks; ++task) store(out + task * out_stride + n, sums[task]);
  }
}

template <class P>
void mix(const Tile<P>& t, const Step& step, int64_t expert_buffer) {
  const auto* experts = t.act(expert_buffer);
  auto* out = t.act(step.out);
  const float* gates = t.floats(step.gate_buffer);
  int64_t n16 = step.layers[step.layer_count - 1].matrix.n16;
  int64_t in_group = t.group_stride(expert_buffer), out_group = t.group_stride(step.out);
  for (int64_t r = 0; r < t.rows; ++r) {
    const float* gate = gates + r * t.stride(step.gate_buffer);
    const auto* h = experts + r * t.stride(expert_buffer);
    auto* row = out + r * t.stride(step.out);
    int64_t task = 0;
    for (; task + 4 <= step.tasks; task += 4) {
      mix_tasks<P, 4>(gate + task * step.experts, step.experts, h, in_group, row + task * out_group, out_group, n16);
    }
    for (; task < step.tasks; ++task) {
      mix_tasks<P, 1>(gate + task * step.experts, step.experts, h, in_group, row + task * out_group, out_group, n16);
    }
  }
}

// Layers of experts or towers: group g of a layer reads group g of the one before (or the one input all share).
template <class P>
void run_grouped_layers(const Tile<P>& t, const Step& step, int64_t in, bool shared) {
  with_activation(step.activation, [&]<Activation A>() {
    for (int64_t l = 0; l < step.layer_count; ++l) {
      const Layer& layer = step.layers[l];
      for (int64_t g = 0; g < layer.matrix.groups; ++g) {
        auto* out = t.act(layer.out) + g * t.group_stride(layer.out);
        int64_t stride = t.stride(layer.out);
        const auto* x = t.act(in) + (l == 0 && shared ? 0 : g * t.group_stride(in));
        linear<P>(t, x, t.stride(in), layer.matrix, g,
                  [&](int64_t r, int64_t n, v16f y) { store(out + r * stride + n, activate<A>(y)); });
      }
      in = layer.out;
    }
  });
}

template <class P>
void run_experts(const Tile<P>& t, const Step& step) {
  float* gates = t.floats(step.gate_buffer);
  int64_t stride = t.stride(step.gate_buffer);
  linear<P>(t, t.act(step.in), t.stride(step.in), step.gate, 0,
            [&](int64_t r, int64_t n, v16f y) { store(gates + r * stride + n, y); });
  softmax_gates(t, step);
  run_grouped_layers(t, step, step.in, true);
  mix(t, step, step.layers[step.layer_count - 1].out);
}

}  // namespace
}  // namespace smt::cpu
