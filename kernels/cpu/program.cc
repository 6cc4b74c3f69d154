#include <algorithm>
#include <limits>
#include <stdexcept>

#include "compiled_program.h"

namespace smt::cpu {
namespace {

constexpr int64_t kMost = int64_t{1} << 24;      // of any count or width: products of two stay far from overflow
constexpr int64_t kMostInt8 = int64_t{1} << 16;  // products of 255 and 127 in a sum below 2^31

int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// Reads the integers in order; every error says at which place.
class Reader {
 public:
  explicit Reader(std::span<const int64_t> values) : values_(values) {}

  bool done() const { return at_ == values_.size(); }
  int64_t next(const char* what, int64_t least, int64_t most) {
    if (done()) fail(what, "the program ends here");
    int64_t value = values_[at_++];
    if (value < least || value > most) {
      fail(what,
           "found " + std::to_string(value) + "; expected " + std::to_string(least) + ".." + std::to_string(most));
    }
    return value;
  }
  int64_t count(const char* what, int64_t least = 1) { return next(what, least, kMost); }
  int64_t source(const char* what) { return next(what, 0, std::numeric_limits<int32_t>::max()); }
  [[noreturn]] void fail(const char* what, const std::string& why) const {
    throw std::invalid_argument("tile program, integer " + std::to_string(at_) + " (" + what + "): " + why);
  }

 private:
  std::span<const int64_t> values_;
  size_t at_ = 0;
};

class Builder {
 public:
  Builder(std::span<const int64_t> values, CompiledProgram::Parts& out) : in_(values), out_(out) {}

  void build() {
    in_.next("format", kProgramFormat, kProgramFormat);
    program().precision = Precision{in_.next("precision", 0, 2)};
    program().inputs = in_.count("inputs");
    groups_ = in_.count("groups of the input");
    if (program().inputs % groups_ != 0) in_.fail("groups of the input", "does not divide the inputs");
    width_ = program().inputs / groups_;
    current_ = program().input_buffer = buffer(groups_, width_);
    program().output_buffer = -1;
    program().packed_as = place(4);
    bool ended = false;
    while (!in_.done()) {
      if (ended) in_.fail("step", "heads is the last step");
      auto kind = StepKind{in_.next("step", 1, 8)};
      Step step{};
      step.kind = kind;
      step.in = current_;
      step.rounded_from = -1;
      ended = kind == StepKind::kHeads;
      add(step);
      out_.steps.push_back(step);
    }
    if (out_.steps.empty()) in_.fail("step", "a program has at least one");
    if (!ended) {
      take_floats();
      program().output_buffer = current_;
      program().outputs = groups_ * width_;
    }
    finish();
  }

 private:
  Program& program() { return out_.program; }

  void add(Step& step) {
    switch (step.kind) {
      case StepKind::kMlp:
        return mlp(step, false);
      case StepKind::kExactMlp:
        return mlp(step, true);
      case StepKind::kGather:
        return gather(step);
      case StepKind::kCrossLowRank:
        return cross_low_rank(step);
      case StepKind::kCrossFull:
        return cross_full(step);
      case StepKind::kDot:
        return dot(step);
      case StepKind::kExperts:
        return experts(step);
      case StepKind::kHeads:
        return heads(step);
    }
  }

  void one_group(const char* what) {
    if (groups_ != 1) in_.fail(what, "takes one group of columns, not " + std::to_string(groups_));
  }

  // What comes next does not multiply the current buffer, so nothing is lost to rounding there.
  void take_floats() { out_.buffers[static_cast<size_t>(current_)].is_float = true; }
  // What comes next multiplies it: floats are rounded into a buffer of their own.
  void take_operand(Step& step) {
    const Buffer& current = out_.buffers[static_cast<size_t>(current_)];
    if (!current.is_float) return;
    step.rounded_from = current_;
    step.in = buffer(current.groups, current.width);
  }

  void mlp(Step& step, bool exact) {
    one_group("mlp");
    Precision precision = exact ? Precision::kFp32 : program().precision;
    exact ? take_floats() : take_operand(step);
    step.activation = activation();
    std::vector<Layer>& layers = new_layers(in_.count("layers"));
    for (Layer& layer : layers) {
      int64_t n = in_.count("units");
      layer.matrix = matrix(precision, 1, n, width_, true);
      int64_t gain = in_.next("gain", -1, std::numeric_limits<int32_t>::max());
      if (gain >= 0) {
        layer.gain = vector(1, n, gain);
        layer.norm_bias = vector(1, n, in_.source("bias of the norm"));
        layer.raw = buffer(1, n, true);
      }
      layer.out = buffer(1, n, exact);
      width_ = n;
    }
    current_ = layers.back().out;
    hand_over(step, layers);
  }

  void gather(Step& step) {
    one_group("gather");
    if (gather_ >= 0) in_.fail("gather", "a program has at most one");
    if (!out_.steps.empty() && out_.steps.back().kind != StepKind::kMlp &&
        out_.steps.back().kind != StepKind::kExactMlp) {
      in_.fail("gather", "comes first or behind mlp");
    }
    step.slots = in_.count("slots");
    step.dim = in_.count("dim");
    step.pooling = Pooling{in_.next("pooling", 0, 1)};
    step.table = TableType{in_.next("table type", 0, 2)};
    // The rows join the columns of the layer before, which writes into the same, wider buffer.
    step.first = in_.next("columns before", 0, 0) + width_;
    width_ += step.slots * step.dim;
    Buffer& b = out_.buffers[static_cast<size_t>(current_)];
    b = shaped(1, width_, true);
    step.out = current_;
    step.swap = buffer(1, step.slots * step.dim, true);
    gather_ = static_cast<int64_t>(out_.steps.size());
  }

  void cross_low_rank(Step& step) {
    one_group("cross");
    int64_t count = in_.count("layers"), rank = in_.count("rank");
    std::vector<Layer>& layers = new_layers(2 * count);
    take_floats();
    int64_t hidden = buffer(1, rank);
    step.swap = buffer(1, width_, true);
    step.operands[0] = step.operands[1] = buffer(1, width_);
    step.out = buffer(1, width_);
    for (int64_t l = 0; l < count; ++l) {
      Layer& down = layers[static_cast<size_t>(2 * l)];
      Layer& up = layers[static_cast<size_t>(2 * l + 1)];
      down.matrix = matrix(program().precision, 1, rank, width_, false);
      down.out = hidden;
      up.matrix = matrix(program().precision, 1, width_, rank, true);
    }
    current_ = step.out;
    hand_over(step, layers);
  }

  void cross_full(Step& step) {
    one_group("cross");
    std::vector<Layer>& layers = new_layers(in_.count("layers"));
    for (Layer& layer : layers) layer.matrix = matrix(program().precision, 1, width_, width_, true);
    take_floats();
    step.swap = buffer(1, width_, true);
    for (int64_t& operand : step.operands) operand = buffer(1, width_);
    step.out = buffer(1, width_);
    current_ = step.out;
    hand_over(step, layers);
  }

  void dot(Step& step) {
    one_group("dot");
    take_floats();
    step.slots = in_.count("vectors");
    step.dim = in_.count("dim");
    if (step.slots * step.dim != width_) in_.fail("dot", "vectors × dim is not the width of its input");
    step.first = in_.next("dense vector first", 0, 1) * step.dim;
    int64_t pairs = step.slots * (step.slots - 1) / 2;
    width_ = step.first + pairs;
    if (width_ == 0) in_.fail("vectors", "one vector has no pairs");
    step.swap = buffer(1, step.dim * round_up(step.slots, kLanes) + pairs + kLanes, true);
    step.out = current_ = buffer(1, width_);
  }

  void experts(Step& step) {
    one_group("experts");
    step.activation = activation();
    step.tasks = in_.count("tasks");
    step.experts = in_.count("experts");
    int64_t inputs = width_;
    take_operand(step);
    std::vector<Layer>& layers = grouped_layers(in_.count("layers"), step.experts);
    step.gate = matrix(program().precision, 1, step.tasks * step.experts, inputs, true, step.tasks);
    int64_t lanes = round_up(step.tasks, kLanes);
    step.gate_buffer = buffer(1, step.tasks * step.experts + lanes, true);  // vectors reach beyond the last gate
    step.swap = buffer(1, (step.experts + 1) * lanes, true);
    out_.buffers[static_cast<size_t>(layers.back().out)].is_float = true;  // is mixed, not multiplied
    groups_ = step.tasks;
    step.out = current_ = buffer(groups_, width_);
    hand_over(step, layers);
  }

  void heads(Step& step) {
    step.activation = activation();
    step.tasks = in_.count("tasks");
    step.shared = in_.next("shared input", 0, 1) == 1;
    step.probability = in_.next("probability", 0, 1) == 1;
    if (groups_ != (step.shared ? 1 : step.tasks)) in_.fail("heads", "its input has another number of groups");
    int64_t count = in_.count("layers", 0);
    count == 0 ? take_floats() : take_operand(step);
    // Mixtures of experts go through few columns, and their rounding errors straight into the scores: multiplied in two
    // parts, for a few hundredths of the work.
    bool split = count > 0 && program().precision == Precision::kBf16 && !out_.steps.empty() &&
                 out_.steps.back().kind == StepKind::kExperts;
    if (split) {
      out_.steps.back().split = true;
      Buffer& mixtures = out_.buffers[static_cast<size_t>(current_)];
      mixtures = shaped(groups_, width_, false, 2 * round_up(width_, kPanel));
    }
    std::vector<Layer>& layers = grouped_layers(count, step.tasks, split);
    if (count > 0) out_.buffers[static_cast<size_t>(layers.back().out)].is_float = true;
    step.out_weight = vector(step.tasks, width_, in_.source("output weight"));
    step.out_bias = vector(1, step.tasks, in_.source("output bias"));
    program().outputs = step.tasks;
    hand_over(step, layers);
  }

  std::vector<Layer>& grouped_layers(int64_t count, int64_t groups, bool split = false) {
    std::vector<Layer>& layers = new_layers(count);
    for (Layer& layer : layers) {
      int64_t n = in_.count("units");
      layer.matrix = matrix(program().precision, groups, n, width_, true, 1, split && &layer == layers.data());
      layer.out = buffer(groups, n);
      width_ = n;
    }
    return layers;
  }

  Activation activation() { return Activation{in_.next("activation", 0, 2)}; }

  std::vector<Layer>& new_layers(int64_t count) {
    if (count > 1024) in_.fail("layers", "more than 1024");
    return out_.layers.emplace_back(static_cast<size_t>(count));
  }
  static void hand_over(Step& step, const std::vector<Layer>& layers) {
    step.layers = layers.data();
    step.layer_count = static_cast<int64_t>(layers.size());
  }

  // Room in the packed slot.
  int64_t place(int64_t bytes) {
    int64_t offset = program().packed_bytes;
    program().packed_bytes += round_up(bytes, 64);
    return offset;
  }
  void reach(int64_t source, int64_t elements) {
    program().slab_elements = std::max(program().slab_elements, source + elements);
  }

  // Reads the sources of the weight and, where there is one, the bias.
  Matrix matrix(Precision precision, int64_t groups, int64_t n, int64_t k, bool with_bias, int64_t split = 1,
                bool twice = false) {
    Matrix m{};
    m.precision = precision;
    m.groups = groups;
    m.n = n;
    m.source_k = k;
    m.twice = twice;
    m.k = twice ? 2 * round_up(k, kPanel) : k;
    m.n16 = round_up(n, kLanes);
    m.split = split;
    m.weight_source = in_.source("weight");
    m.bias_source = with_bias ? in_.source("bias") : -1;
    if (groups > kMost / n || groups * n > (int64_t{1} << 34) / k) in_.fail("units", "the matrix is too large");
    reach(m.weight_source, groups * n * k);
    if (with_bias) reach(m.bias_source, groups * n);
    switch (precision) {
      case Precision::kFp32:
        m.group_bytes = m.n16 * round_up(m.k, 4) * 4;
        break;
      case Precision::kBf16:
        m.group_bytes = m.n16 * round_up(m.k, 32) * 2;
        m.scale = place(groups * m.n16 * 4);
        m.levels = place(4);
        break;
      case Precision::kInt8:
        if (k > kMostInt8) in_.fail("units", "more inputs than int8 sums of 32 bits hold");
        m.group_bytes = m.n16 * round_up(m.k, 64);
        m.scale = place(groups * m.n16 * 4);
        m.shift = place(groups * m.n16 * 4);
        break;
    }
    m.weight = place(groups * m.group_bytes);
    m.bias = place(groups * m.n16 * 4);
    program().max_k = std::max(program().max_k, m.k);
    program().row_flops += 2 * groups * n * k;
    program().panels += groups * ((m.n16 + kPanel - 1) / kPanel);
    out_.matrices.push_back(m);
    return m;
  }

  Vector vector(int64_t groups, int64_t n, int64_t source) {
    Vector v{groups, n, source, 0, round_up(n, kLanes)};
    v.offset = place(groups * v.n16 * 4);
    reach(source, groups * n);
    out_.vectors.push_back(v);
    return v;
  }

  Buffer shaped(int64_t groups, int64_t width, bool is_float, int64_t group_stride = 0) const {
    Buffer b{};
    b.groups = groups;
    b.width = width;
    b.group_stride = group_stride > 0 ? group_stride : round_up(width, kPanel);
    b.is_float = is_float;
    b.stride = groups * b.group_stride;
    if (b.stride > kMost) in_.fail("width", "the activations of a row are too large");
    // Rows a multiple of 512 bytes apart would crowd the same few cache sets.
    if (b.stride % 256 == 0) b.stride += kPanel;
    return b;
  }
  int64_t buffer(int64_t groups, int64_t width, bool is_float = false) {
    out_.buffers.push_back(shaped(groups, width, is_float));
    return static_cast<int64_t>(out_.buffers.size()) - 1;
  }

  void finish() {
    Program& p = program();
    for (Buffer& b : out_.buffers) {
      b.float_offset = p.float_bytes;
      b.half_offset = p.half_bytes;
      p.float_bytes += b.stride * 4;
      p.half_bytes += b.stride * (b.is_float ? 4 : 2);
    }
    p.streams = p.packed_bytes > kStreamedBytes;
    p.buffers = out_.buffers.data();
    p.buffer_count = static_cast<int64_t>(out_.buffers.size());
    p.steps = out_.steps.data();
    p.step_count = static_cast<int64_t>(out_.steps.size());
    p.gather = gather_ < 0 ? nullptr : &out_.steps[static_cast<size_t>(gather_)];
  }

  Reader in_;
  CompiledProgram::Parts& out_;
  int64_t groups_ = 1, width_ = 0, current_ = 0, gather_ = -1;
};

}  // namespace

CompiledProgram::CompiledProgram(std::span<const int64_t> values) : source_(values.begin(), values.end()) {
  Builder(source_, parts_).build();
}

}  // namespace smt::cpu
