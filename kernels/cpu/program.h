// A tile program: what a fused op computes, as plain data. One program carries rows of any number of scenarios.
//
// program.cc parses and checks the integers that Python emits (kernels/cpu/program.py has the format) and lays the
// packed weights out; the kernels of each instruction set read the result. This header holds plain data only: it is
// included by translation units compiled for other instruction sets, and an inline function of a library emitted there
// could be the copy that the linker keeps for all.
#pragma once

#include <cstddef>
#include <cstdint>

namespace smt::cpu {

// Rows of one entry of `block_slot`: all rows of a block are of one scenario. 16 is the height of an AMX tile.
inline constexpr int64_t kRowBlock = 16;
// Columns of one panel of packed weights: two vectors of 16 floats, two AMX tiles.
inline constexpr int64_t kPanel = 32;
inline constexpr int64_t kLanes = 16;

// Packed weights of more bytes exceed the larger second-level caches by far: see Program::streams.
inline constexpr int64_t kStreamedBytes = int64_t{4} << 20;

enum class Precision : int64_t { kFp32 = 0, kBf16 = 1, kInt8 = 2 };
// What the 16 bits of a bf16 program's weights hold. Without bf16 arithmetic, AVX2 multiplies 16-bit integers, which
// goes nearly twice as fast as multiplying floats and rounds less than bf16 does (gemm_avx2.h).
enum class Weights16 : int32_t { kBf16 = 0, kIntegers = 1 };
enum class Activation : int64_t { kRelu = 0, kGelu = 1, kSilu = 2 };
enum class Pooling : int64_t { kSum = 0, kMean = 1 };
enum class TableType : int64_t { kFp32 = 0, kFp16 = 1, kInt8 = 2 };
enum class StepKind : int64_t {
  kMlp = 1,
  kGather = 2,
  kCrossLowRank = 3,
  kCrossFull = 4,
  kDot = 5,
  kExperts = 6,
  kHeads = 7,
  kExactMlp = 8,  // in fp32 whatever the precision
};

// One matrix [groups, n, k] (row-major in the slab) with its bias [groups, n]; groups are experts or towers.
//
// Packed, each group is a sequence of panels of 32 columns (the last may have 16), each panel a sequence of k blocks:
//   fp32: per k:      [columns/16][16] float (k rounded up to 4)
//   bf16: per 32 k:   [columns/16][16 pairs of k][16 columns][2] bf16: an AMX tile, or 16 operands of vdpbf16ps
//   int8: per 64 k:   [columns/16][16 quadruples of k][16 columns][4] int8: an AMX tile, or 16 operands of vpdpbusd
// Weights16::kIntegers lie as bf16 does. Padding is zero. All offsets are bytes from the start of the slot, multiples
// of 64.
struct Matrix {
  Precision precision;
  int64_t groups, n;
  int64_t k;         // depth of the product
  int64_t source_k;  // columns in the slab: k, or, with `twice`, the weights stand at 0 and again at k / 2
  bool twice;        // multiplies activations that are split in two: what bf16 holds of them, and the rest
  int64_t weight_source, bias_source;  // element offsets in the slab; bias_source -1: no bias
  int64_t weight, bias;                // packed; bias [groups, n16] float, zeros where there is none
  int64_t scale;                       // int8, integers: [groups, n16] float scale of a column
  int64_t shift;                       // int8: [groups, n16] int32, 128 * the sum of a column
  int64_t levels;                      // integers: a float, the largest magnitude of the activations that multiply them
  int64_t n16;                         // n rounded up to 16
  int64_t split;        // column c of a group is row (c % split) * (n / split) + c / split of the source; 1: row c
  int64_t group_bytes;  // of weight
};

// A vector [n] of the slab, packed as n16 floats per group.
struct Vector {
  int64_t groups, n;
  int64_t source;
  int64_t offset;
  int64_t n16;
};

struct Layer {
  Matrix matrix;
  Vector gain, norm_bias;  // LayerNorm; gain.n == 0: none
  int64_t out;             // buffer that it writes
  int64_t raw;             // with LayerNorm: float buffer of what is to be normalised
};

// A buffer holds activations of one tile, [rows, stride]: of the precision's type where a matrix multiplies them next,
// and float where they are added, mixed or gathered, so that they are rounded once a matrix and never in between. A row
// is `groups` pieces of `width` meant columns, one every `group_stride` columns (a multiple of 32: the next matrix
// reads whole blocks of k); the columns between are zero.
struct Buffer {
  int64_t groups, width, group_stride;
  int64_t stride;                     // elements from row to row
  bool is_float;                      // float whatever the precision
  int64_t float_offset, half_offset;  // bytes a row of all buffers before it, with float or 16-bit activations
};

struct Step {
  StepKind kind;
  Activation activation;
  int64_t in, out;       // buffers
  int64_t rounded_from;  // float buffer that is rounded into `in` first; -1: none
  const Layer* layers;
  int64_t layer_count;
  // kGather: slots × dim behind the first `first` columns of buffer `out`.
  // kDot: slots = number of vectors (the first is the dense one), dim.
  int64_t slots, dim, first;
  Pooling pooling;
  TableType table;
  // kGather: `swap` keeps the columns of the row above. kExperts: `swap` is room for the mixture weights of a row, and
  // the gate's columns are [experts, tasks]. kCrossLowRank: layers in pairs (down without bias, up). The crosses:
  // `operands` is x for the next matrix to multiply (kCrossFull alternates between two), `swap` the same in float
  // where operands are rounded.
  int64_t swap;
  int64_t operands[2];
  // kExperts and kHeads.
  int64_t tasks, experts;
  Matrix gate;
  int64_t gate_buffer;
  bool split;         // kExperts: mixtures are written as what bf16 holds and, behind it, the rest
  Vector out_weight;  // [tasks, k]
  Vector out_bias;    // one group of `tasks`
  bool shared;        // every head reads the same input
  bool probability;   // logits go through the sigmoid
};

struct Program {
  Precision precision;
  int64_t packed_as;   // in a packed slot: int32 Weights16 of a bf16 program
  int64_t inputs;      // columns of the dense input
  int64_t outputs;     // columns of the result
  const Step* gather;  // the step, or null
  int64_t input_buffer, output_buffer;
  const Buffer* buffers;
  int64_t buffer_count;
  const Step* steps;
  int64_t step_count;
  int64_t slab_elements;  // what the sources reach to
  int64_t packed_bytes;   // of a slot
  int64_t float_bytes;    // of all buffers, a row, with float activations
  int64_t half_bytes;     // and with 16-bit ones
  int64_t max_k;          // widest input of a matrix
  int64_t row_flops;      // of all matrices
  int64_t panels;         // of all matrices
  bool streams;  // the packed weights exceed second-level caches by far, and come from further away in every tile
};

// What one call computes on; all memory outlives the call. Checked by the caller (op.cc) but for `ids`.
struct Inputs {
  const std::byte* arena;  // [slots, slot_bytes], 64-byte aligned
  int64_t slot_bytes;
  const int32_t* block_slot;  // [ceil(rows / kRowBlock)]
  const float* dense;         // [rows, inputs]
  int64_t rows;
  const std::byte* pool;  // [pool_rows, row_bytes] of the gather's table type
  int64_t pool_rows;
  const int64_t* pool_base;  // [slots]: first row of the scenario's table in the pool
  const int64_t* ids;        // rows of the scenario's table
  const int64_t* offsets;    // [bags + 1]
  const int64_t* bag_index;  // [rows, slots]
  float* out;                // [rows, outputs]
  // The slot whose weights this thread read last, and which its caches may still hold; null: none.
  const std::byte* warm;
};

}  // namespace smt::cpu
