// `experts` on a tile: MMoE (doi 10.1145/3219819.3220007; reference.py is the specification).
#pragma once

#include "../cpu/tile.h"

namespace smt::cpu {
namespace {

// gates[rows, experts, tasks] (the columns of the packed gate matrix) -> mixture weights, not yet divided by `totals`,
// their sum over the experts: one division a task instead of one a gate. 16 tasks at a time, in the lanes of a vector;
// lanes behind the last task compute what nobody reads.
template <class P>
SMT_INLINE void exponentiate_gates(const Step& step, const float* gates, int64_t lanes, float* weights, float* totals) {
  for (int64_t task = 0; task < step.tasks; task += kLanes) {
    v16f largest = load(gates + task);
    for (int64_t e = 1; e < step.experts; ++e) largest = vmax(largest, load(gates + e * step.tasks + task));
    v16f total{};
    for (int64_t e = 0; e < step.experts; ++e) {
      v16f weight = exp(load(gates + e * step.tasks + task) - largest);
      store(weights + e * lanes + task, weight);
      total += weight;
    }
    store(totals + task, 1.0F / total);
  }
}

// out[tasks, n] = Σ_e weights[e, task] * expert[e] / total[task]; a few tasks at a time keep their sums in registers.
// With `rest`, what rounding takes from a mixture is written so many columns behind it.
template <int Tasks, class Out>
SMT_INLINE void mix_tasks(const float* weights, int64_t lanes, const float* totals, int64_t experts, const float* h,
                          int64_t h_stride, Out* out, int64_t out_stride, int64_t rest, int64_t n16) {
  for (int64_t n = 0; n < n16; n += kLanes) {
    v16f sums[Tasks] = {};
    for (int64_t e = 0; e < experts; ++e) {
      v16f x = load(h + e * h_stride + n);
      for (int task = 0; task < Tasks; ++task) sums[task] += weights[e * lanes + task] * x;
    }
    for (int task = 0; task < Tasks; ++task) {
      v16f mixture = sums[task] * totals[task];
      Out* at = out + task * out_stride + n;
      store(at, mixture);
      if (rest > 0) store(at + rest, mixture - load(at));
    }
  }
}

template <class P, class Out>
void mix(const Tile<P>& t, const Step& step, int64_t expert_buffer, Out* out) {
  const float* experts = t.floats(expert_buffer);
  const float* gates = t.floats(step.gate_buffer);
  int64_t lanes = (step.tasks + kLanes - 1) / kLanes * kLanes;
  float* weights = t.floats(step.swap);  // [experts, lanes] and then [lanes] totals, of one row at a time
  float* totals = weights + step.experts * lanes;
  int64_t n16 = step.layers[step.layer_count - 1].matrix.n16;
  int64_t rest = step.split ? t.group_stride(step.out) / 2 : 0;
  int64_t in_group = t.group_stride(expert_buffer), out_group = t.group_stride(step.out);
  for (int64_t r = 0; r < t.rows; ++r) {
    exponentiate_gates<P>(step, gates + r * t.stride(step.gate_buffer), lanes, weights, totals);
    const float* h = experts + r * t.stride(expert_buffer);
    auto* row = out + r * t.stride(step.out);
    int64_t task = 0;
    auto several = [&]<int Tasks>() {
      for (; task + Tasks <= step.tasks; task += Tasks) {
        mix_tasks<Tasks>(weights + task, lanes, totals + task, step.experts, h, in_group, row + task * out_group,
                         out_group, rest, n16);
      }
    };
    several.template operator()<8>();
    several.template operator()<2>();
    several.template operator()<1>();
  }
}

// Layers of experts or towers: group g of a layer reads group g of the one before (or the one input all share).
template <class P>
void run_grouped_layers(const Tile<P>& t, const Step& step, int64_t in, bool shared) {
  with_activation(step.activation, [&]<Activation A>() {
    for (int64_t l = 0; l < step.layer_count; ++l) {
      const Layer& layer = step.layers[l];
      bool same = l == 0 && shared;
      auto x = operand(t, t.act(in), t.stride(in), layer.matrix);
      for (int64_t g = 0; g < layer.matrix.groups; ++g) {
        int64_t stride = t.stride(layer.out);
        if (!same && g > 0) x = operand(t, t.act(in) + g * t.group_stride(in), t.stride(in), layer.matrix);
        with_elements(t, layer.out, [&](auto* elements) {
          auto* out = elements + g * t.group_stride(layer.out);
          linear<P>(t, x, layer.matrix, g, [&]<int V>(int64_t r, int64_t n, const Columns<V>& y) {
            y.write(y.map(y, [](v16f value, int) { return activate<A>(value); }), out + r * stride + n);
          });
        });
      }
      in = layer.out;
    }
  });
}

template <class P>
void run_experts(const Tile<P>& t, const Step& step) {
  float* gates = t.floats(step.gate_buffer);
  int64_t stride = t.stride(step.gate_buffer);
  linear<P>(t, operand(t, t.act(step.in), t.stride(step.in), step.gate), step.gate, 0,
            [&]<int V>(int64_t r, int64_t n, const Columns<V>& y) { y.write(y, gates + r * stride + n); });
  run_grouped_layers(t, step, step.in, true);
  int64_t last = step.layers[step.layer_count - 1].out;
  with_elements(t, step.out, [&](auto* out) { mix(t, step, last, out); });
}

}  // namespace
}  // namespace smt::cpu
