// What is fuzzed: everything that reads bytes of others. Each function takes any bytes; it returns when they were read
// or refused as its header says, and aborts when what was read breaks a promise that the code behind it relies on.
//
// `make fuzz` runs them under libFuzzer with AddressSanitizer and UndefinedBehaviorSanitizer; replay.cc, in the
// ordinary tests, runs them on the corpus.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string_view>

namespace smt::fuzz {

using Bytes = std::span<const uint8_t>;

// Requests: decoded and validated as the server does it, up to rows of a batch.
void predict(Bytes bytes);
void multi_predict(Bytes bytes);
void model_infer(Bytes bytes);
// The requests that score nothing. The first byte says which.
void other_request(Bytes bytes);
// What a client sends on a connection of the data port, from its first byte.
void connection(Bytes bytes);
// Files of a registry, and the operator's.
void feature_spec(Bytes bytes);
void snapshot_manifest(Bytes bytes);
void binary_manifest(Bytes bytes);
void safetensors(Bytes bytes);
void scheduling(Bytes bytes);
// A template binary's program: little-endian int64 values.
void tile_program(Bytes bytes);

inline std::string_view text(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

// A promise. Unlike assert(), also kept where NDEBUG is defined.
inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

}  // namespace smt::fuzz
