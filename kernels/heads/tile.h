// `heads` on a tile: task towers down to the logit or the probability (reference.py is the specification).
#pragma once

#include "../experts/tile.h"

namespace smt::cpu {
namespace {

template <class P>
void run_heads(const Tile<P>& t, const Step& step) {
  run_grouped_layers(t, step, step.in, step.shared);
  int64_t last = step.layer_count > 0 ? step.layers[step.layer_count - 1].out : step.in;
  int64_t group = step.shared && step.layer_count == 0 ? 0 : t.group_stride(last);
  const float* weights = t.weights(step.out_weight.offset);
  const float* bias = t.weights(step.out_bias.offset);
  for (int64_t r = 0; r < t.rows; ++r) {
    const float* x = t.floats(last) + r * t.stride(last);
    float* out = t.in.out + (t.first + r) * step.tasks;
    for (int64_t task = 0; task < step.tasks; ++task) {
      v16f total{};
      for (int64_t i = 0; i < step.out_weight.n16; i += kLanes) {
        total += load(x + task * group + i) * load(weights + task * step.out_weight.n16 + i);
      }
      out[task] = sum(total) + bias[task];
    }
  }
  if (!step.probability) return;
  float* out = t.in.out + t.first * step.tasks;
  int64_t count = t.rows * step.tasks, i = 0;
  for (; i + kLanes <= count; i += kLanes) store(out + i, sigmoid(load(out + i)));
  if (i < count) {
    float tail[kLanes] = {};
    std::memcpy(tail, out + i, static_cast<size_t>(count - i) * sizeof(float));
    store(tail, sigmoid(load(tail)));
    std::memcpy(out + i, tail, static_cast<size_t>(count - i) * sizeof(float));
  }
}

}  // namespace
}  // namespace smt::cpu
