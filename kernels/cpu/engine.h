// The body of one translation unit per instruction set: defines SMT_KERNELS(), a function that returns its `Kernels`.
// Everything before that is in unnamed namespaces, so that no two units share code.
#pragma once

#include "../cross/tile.h"
#include "../embedding/tile.h"
#include "../experts/tile.h"
#include "../heads/tile.h"
#include "../interaction/tile.h"
#include "../mlp/tile.h"
#include "kernels.h"
#include "tile.h"

namespace smt::cpu {
namespace {

int64_t align(int64_t bytes) { return (bytes + 63) / 64 * 64; }

template <class P>
struct Scratch {
  int64_t sums, quantised, buffers, total;

  Scratch(const Program& program, int64_t rows)
      : sums(0),
        quantised(rows * kPanel * 4),
        buffers(quantised + align(rows * 4) + rows * P::quantised_bytes(program.max_k)),
        total(buffers + rows * (sizeof(typename P::Act) == 4 ? program.float_bytes : program.half_bytes)) {}
};

// Zeros behind the meant columns of every buffer: products read whole blocks of k. No step writes anything else there.
template <class P>
void clear_padding(const Tile<P>& t) {
  for (int64_t i = 0; i < t.program.buffer_count; ++i) {
    const Buffer& b = t.program.buffers[i];
    if (b.width == b.group_stride) continue;
    size_t bytes =
        static_cast<size_t>(b.group_stride - b.width) * (b.is_float ? sizeof(float) : sizeof(typename P::Act));
    size_t element = b.is_float ? sizeof(float) : sizeof(typename P::Act);
    for (int64_t r = 0; r < t.capacity; ++r) {
      for (int64_t g = 0; g < b.groups; ++g) {
        std::memset(t.memory(i) + static_cast<size_t>(r * b.stride + g * b.group_stride + b.width) * element, 0, bytes);
      }
    }
  }
}

template <class P>
void read_inputs(const Tile<P>& t) {
  const Buffer& b = t.program.buffers[t.program.input_buffer];
  int64_t width = t.program.inputs / b.groups;
  with_elements(t, t.program.input_buffer, [&](auto* elements) {
    for (int64_t r = 0; r < t.rows; ++r) {
      for (int64_t g = 0; g < b.groups; ++g) {
        const float* x = t.in.dense + (t.first + r) * t.program.inputs + g * width;
        auto* out = elements + r * b.stride + g * b.group_stride;
        int64_t i = 0;
        for (; i + kLanes <= width; i += kLanes) store(out + i, load(x + i));
        for (; i < width; ++i) store_one(out + i, x[i]);
      }
    }
  });
}

template <class P>
void write_outputs(const Tile<P>& t) {
  const Buffer& b = t.program.buffers[t.program.output_buffer];
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t g = 0; g < b.groups; ++g) {
      std::memcpy(t.in.out + (t.first + r) * t.program.outputs + g * b.width,
                  t.floats(t.program.output_buffer) + r * b.stride + g * b.group_stride,
                  static_cast<size_t>(b.width) * sizeof(float));
    }
  }
}

template <class P>
Status run_tile(const Tile<P>& t) {
  read_inputs(t);
  for (int64_t i = 0; i < t.program.step_count; ++i) {
    const Step& step = t.program.steps[i];
    if (step.rounded_from >= 0) round_into(t, step.rounded_from, step.in);
    switch (step.kind) {
      case StepKind::kMlp:
        run_mlp(t, step);
        break;
      case StepKind::kExactMlp:
        run_mlp(viewed_as<Fp32>(t), step);
        break;
      case StepKind::kGather:
        if (!run_gather(t, step)) return Status::kIdOutside;
        break;
      case StepKind::kCrossLowRank:
        run_cross_low_rank(t, step);
        break;
      case StepKind::kCrossFull:
        run_cross_full(t, step);
        break;
      case StepKind::kDot:
        run_dot(t, step);
        break;
      case StepKind::kExperts:
        run_experts(t, step);
        break;
      case StepKind::kHeads:
        run_heads(t, step);
        break;
    }
  }
  if (t.program.output_buffer >= 0) write_outputs(t);
  return Status::kOk;
}

// Walks over the tiles of a call: runs of row blocks of one slot, each cut into tiles of nearly equal height.
struct TileCursor {
  const Inputs& in;
  int64_t last, capacity;
  int64_t run_first = 0, run_end = 0, tiles = 0, tile = 0;  // the run, and the tile in it
  int32_t slot = 0;

  // The tile at the start of the run that begins at `row`; none when that is `last`.
  void start(int64_t row) {
    run_first = run_end = row;
    tile = tiles = 0;
    if (row >= last) return;
    slot = in.block_slot[row / kRowBlock];
    while (run_end < last && in.block_slot[run_end / kRowBlock] == slot)
      run_end = (run_end / kRowBlock + 1) * kRowBlock;
    if (run_end > last) run_end = last;
    tiles = (run_end - run_first + capacity - 1) / capacity;
  }
  void advance() {
    if (++tile >= tiles) start(run_end);
  }
  bool done() const { return tiles == 0; }
  int64_t edge(int64_t index) const { return run_first + (run_end - run_first) * index / tiles; }
  int64_t first() const { return edge(tile); }
  int64_t rows() const { return edge(tile + 1) - first(); }
};

template <class P>
Status run_rows(const Program& program, const Inputs& in, int64_t first, int64_t last, int64_t capacity,
                std::byte* memory) {
  Scratch<P> scratch(program, capacity);
  int64_t slots = program.gather == nullptr ? 0 : program.gather->slots;
  auto base_of = [&](int32_t slot) { return in.pool_base == nullptr ? 0 : in.pool_base[slot]; };
  Prefetcher ahead{.in = in,
                   .row_bytes = slots == 0 ? 0 : pool_row_bytes(program.gather->table, program.gather->dim),
                   .pool_base = 0,
                   .next = 0,
                   .end = 0,
                   .step = program.panels == 0 ? 0 : kPrefetchRows * slots / program.panels + 1};
  Tile<P> t{.program = program,
            .in = in,
            .slot = nullptr,
            .pool_base = 0,
            .first = first,
            .rows = 0,
            .follows = false,
            .capacity = capacity,
            .sums = reinterpret_cast<float*>(memory + scratch.sums),
            .quantised = memory + scratch.quantised,
            .buffers = memory + scratch.buffers,
            .ahead = &ahead,
            .stream = false,
            .half = sizeof(typename P::Act) == 2};
  clear_padding(t);
  TileCursor cursor{.in = in, .last = last, .capacity = capacity};
  const std::byte* warm = in.warm;
  for (cursor.start(first); !cursor.done();) {
    t.slot = in.arena + cursor.slot * in.slot_bytes;
    t.pool_base = base_of(cursor.slot);
    t.first = cursor.first();
    t.rows = cursor.rows();
    t.follows = cursor.tile > 0;
    // The first tile of another scenario than this thread computed last finds its weights in no cache near by.
    t.stream = program.packed_bytes > kNearBytes || (cursor.tile == 0 && t.slot != warm);
    warm = t.slot;
    if (ahead.next < t.first * slots) ahead.next = t.first * slots;
    ahead.pool_base = t.pool_base;
    ahead.up_to((t.first + t.rows) * slots);  // what is left of this tile: all of the first one
    cursor.advance();
    if (!cursor.done()) {
      ahead.pool_base = base_of(cursor.slot);
      ahead.end = (cursor.first() + cursor.rows()) * slots;
    }
    if (Status status = run_tile(t); status != Status::kOk) return status;
  }
  return Status::kOk;
}

Status run(const Program& program, const Inputs& in, int64_t first, int64_t last, int64_t rows, std::byte* scratch) {
#if defined(SMT_AMX)
  tiles_configure();
#endif
  Status status = Status::kOk;
  switch (program.precision) {
    case Precision::kFp32:
      status = run_rows<Fp32>(program, in, first, last, rows, scratch);
      break;
    case Precision::kBf16:
      status = run_rows<Bf16>(program, in, first, last, rows, scratch);
      break;
    case Precision::kInt8:
      status = run_rows<Int8>(program, in, first, last, rows, scratch);
      break;
  }
#if defined(SMT_AMX)
  tiles_release();
#endif
  return status;
}

int64_t scratch_bytes(const Program& program, int64_t rows) {
  return program.precision == Precision::kFp32   ? Scratch<Fp32>(program, rows).total
         : program.precision == Precision::kBf16 ? Scratch<Bf16>(program, rows).total
                                                 : Scratch<Int8>(program, rows).total;
}

int64_t activation_bytes(Precision precision) {
  return precision == Precision::kFp32 ? sizeof(Fp32::Act) : sizeof(Bf16::Act);
}

// 48 rows × 32 columns × 256: 24 KiB of activations and 16 KiB of weights in bf16, so that L1 holds them.
template <class P>
double multiply_tiles(int64_t repetitions, std::byte* memory) {
  constexpr int64_t kRows = 48, kDepth = 256;
  auto* sums = reinterpret_cast<float*>(memory);
  std::byte* weights = memory + kRows * kPanel * 4;
  std::byte* quantised = weights + kDepth * kPanel * 4;
  auto* a = reinterpret_cast<typename P::Act*>(quantised + kRows * (P::quantised_bytes(kDepth) + 4) + 64);
  auto x = P::operand(a, kDepth, kRows, kDepth, 127.0F, quantised);
  for (int64_t i = 0; i < repetitions; ++i) P::panel(x, kRows, weights, kDepth, 2, sums, false);
  return 2.0 * kRows * kPanel * kDepth * static_cast<double>(repetitions);
}

double peak(Precision precision, int64_t repetitions, std::byte* scratch) {
#if defined(SMT_AMX)
  tiles_configure();
#endif
  double operations = precision == Precision::kFp32   ? multiply_tiles<Fp32>(repetitions, scratch)
                      : precision == Precision::kBf16 ? multiply_tiles<Bf16>(repetitions, scratch)
                                                      : multiply_tiles<Int8>(repetitions, scratch);
#if defined(SMT_AMX)
  tiles_release();
#endif
  return operations;
}

}  // namespace

const Kernels& SMT_KERNELS() {
  static constexpr Kernels kKernels{SMT_KERNELS_NAME, Bf16::kWeights16, scratch_bytes, run, peak, activation_bytes};
  return kKernels;
}

}  // namespace smt::cpu
