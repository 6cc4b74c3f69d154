// `mlp` on a tile: x <- act(LN(x Wᵀ + b)), layer after layer (reference.py beside this is the specification).
#pragma once

#include "../cpu/tile.h"

namespace smt::cpu {
namespace {

// Mean and variance of each row over the n meant columns, then gain, bias and activation (arXiv 1607.06450, eps 1e-5).
template <Activation A, class P, class Out>
void normalise(const Tile<P>& t, const Layer& layer, Out* out, int64_t out_stride) {
  const float* raw = t.floats(layer.raw);
  int64_t stride = t.stride(layer.raw);
  const float* gain = t.weights(layer.gain.offset);
  const float* bias = t.weights(layer.norm_bias.offset);
  int64_t n = layer.matrix.n;
  for (int64_t r = 0; r < t.rows; ++r) {
    const float* x = raw + r * stride;
    float total = 0;
    for (int64_t i = 0; i < n; ++i) total += x[i];
    float mean = total / static_cast<float>(n);
    float squares = 0;
    for (int64_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
    float inverse = 1.0F / __builtin_sqrtf(squares / static_cast<float>(n) + 1e-5F);
    for (int64_t i = 0; i < layer.matrix.n16; i += kLanes) {
      v16f y = (load(x + i) - mean) * inverse * load(gain + i) + load(bias + i);  // gain and bias are zero from n on
      store(out + r * out_stride + i, activate<A>(y));
    }
  }
}

template <class P>
void run_mlp(const Tile<P>& t, const Step& step) {
  with_activation(step.activation, [&]<Activation A>() {
    int64_t in = step.in;
    for (int64_t l = 0; l < step.layer_count; ++l) {
      const Layer& layer = step.layers[l];
      int64_t stride = t.stride(layer.out);
      auto x = operand(t, t.act(in), t.stride(in), layer.matrix);
      if (layer.gain.n > 0) {
        float* raw = t.floats(layer.raw);
        int64_t raw_stride = t.stride(layer.raw);
        linear<P>(t, x, layer.matrix, 0,
                  [&]<int V>(int64_t r, int64_t n, const Columns<V>& y) { y.write(y, raw + r * raw_stride + n); });
        with_elements(t, layer.out, [&](auto* out) { normalise<A>(t, layer, out, stride); });
      } else {
        with_elements(t, layer.out, [&](auto* out) {
          linear<P>(t, x, layer.matrix, 0, [&]<int V>(int64_t r, int64_t n, const Columns<V>& y) {
            y.write(y.map(y, [](v16f value, int) { return activate<A>(value); }), out + r * stride + n);
          });
        });
      }
      in = layer.out;
    }
  });
}

}  // namespace
}  // namespace smt::cpu
