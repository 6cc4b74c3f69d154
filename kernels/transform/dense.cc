// Dense values: the steps in double precision, then saturated and rounded.
#include <algorithm>
#include <cmath>

#include "model.h"

namespace smt::transform {
namespace {

double step_value(const Step& step, double value) {
  switch (step.op) {
    case Step::Op::kLog:
      return std::copysign(std::log1p(std::abs(value)), value);
    case Step::Op::kClip:
      return std::min(std::max(value, step.first), step.second);
    case Step::Op::kNormalise:
      return (value - step.first) / step.second;
  }
  return value;
}

float saturate(double value) { return static_cast<float>(std::min(std::max(value, -kDenseLimit), kDenseLimit)); }

}  // namespace

float transform_dense(const std::vector<Step>& steps, double value) {
  for (const Step& step : steps) value = step_value(step, value);
  return saturate(value);
}

void transform_dense(const std::vector<Step>& steps, std::span<double> values, float* out) {
  // One step after the other, each in a loop of its own: all but the logarithm become vector instructions.
  for (const Step& step : steps) {
    switch (step.op) {
      case Step::Op::kLog:
        for (double& value : values) value = step_value({Step::Op::kLog}, value);
        break;
      case Step::Op::kClip:
        for (double& value : values) value = step_value({Step::Op::kClip, step.first, step.second}, value);
        break;
      case Step::Op::kNormalise:
        for (double& value : values) value = step_value({Step::Op::kNormalise, step.first, step.second}, value);
        break;
    }
  }
  for (size_t i = 0; i < values.size(); ++i) out[i] = saturate(values[i]);
}

}  // namespace smt::transform
