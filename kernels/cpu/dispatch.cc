#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <new>
#include <stdexcept>

#include "compiled_program.h"
#include "execute.h"
#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace smt::cpu {
namespace {

struct Candidate {
  const Kernels* kernels;
  std::string missing;  // why this machine cannot run it; empty where it can
};

#if defined(__x86_64__)

// Empty, or the feature that is missing. __builtin_cpu_supports also asks whether the system saves the registers.
std::string missing_avx2() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2")) return "the CPU has no AVX2";
  if (!__builtin_cpu_supports("fma")) return "the CPU has no FMA";
  return "";
}

std::string missing_avx512() {
  if (std::string missing = missing_avx2(); !missing.empty()) return missing;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return "the CPU has no AVX-512 (F, BW, DQ, VL)";
  }
  if (!__builtin_cpu_supports("avx512vnni")) return "the CPU has no AVX512-VNNI";
  return "";
}

std::string missing_avx512_bf16() {
  if (std::string missing = missing_avx512(); !missing.empty()) return missing;
  if (!__builtin_cpu_supports("avx512bf16")) return "the CPU has no AVX512-BF16";
  return "";
}

std::string missing_amx() {
  if (std::string missing = missing_avx512_bf16(); !missing.empty()) return missing;
  unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
  __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx);
  constexpr unsigned int kAmxBf16 = 1U << 22, kAmxTile = 1U << 24, kAmxInt8 = 1U << 25;
  if ((edx & kAmxTile) == 0 || (edx & kAmxBf16) == 0 || (edx & kAmxInt8) == 0) {
    return "the CPU has no AMX (TILE, BF16, INT8)";
  }
  // Linux gives tile registers to processes that ask for them.
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0)
    return "the system does not permit the use of AMX tiles";
  return "";
}

#endif

// A small network on awkward shapes must come out as it does in portable code: hypervisors and emulators that announce
// instructions and do not run them right are found here, and not by users.
bool agrees_with_portable(const Kernels& kernels) {
  constexpr int64_t kRows = 37, kInputs = 70, kUnits = 41;
  std::vector<float> slab(static_cast<size_t>(kInputs * kUnits + kUnits));
  std::vector<float> x(static_cast<size_t>(kRows * kInputs));
  uint32_t state = 1;
  auto random = [&] {
    return static_cast<float>(static_cast<int32_t>(state = state * 1664525U + 1013904223U)) * 0x1p-31F;
  };
  for (float& value : slab) value = random();
  for (float& value : x) value = random();
  std::vector<int32_t> block_slot((kRows + kRowBlock - 1) / kRowBlock, 0);
  for (int64_t precision = 0; precision < 3; ++precision) {
    std::vector<int64_t> values{1, precision, kInputs, 1, 1, 0, 1, kUnits, 0, kInputs * kUnits, -1};
    CompiledProgram program(values);
    AlignedMemory slot(program.program().packed_bytes);
    std::vector<float> out[2];
    for (int i = 0; i < 2; ++i) {
      const Kernels& run = i == 0 ? portable_kernels() : kernels;
      program.pack(slab, run.weights16, slot.data());
      out[i].resize(static_cast<size_t>(kRows * kUnits));
      Inputs in{};
      in.arena = slot.data();
      in.slot_bytes = program.program().packed_bytes;
      in.block_slot = block_slot.data();
      in.dense = x.data();
      in.rows = kRows;
      in.out = out[i].data();
      execute(program, run, in, 0, kRows);
    }
    for (size_t i = 0; i < out[0].size(); ++i) {
      if (!(std::fabs(out[0][i] - out[1][i]) <= 0.25F)) return false;  // values of about 3, rounded in three places
    }
  }
  return true;
}

std::vector<Candidate> find_candidates() {
  std::vector<Candidate> candidates;
#if defined(__x86_64__)
  candidates.push_back({&amx_kernels(), missing_amx()});
  candidates.push_back({&avx512_bf16_kernels(), missing_avx512_bf16()});
  candidates.push_back({&avx512_kernels(), missing_avx512()});
  candidates.push_back({&avx2_kernels(), missing_avx2()});
#endif
  for (Candidate& candidate : candidates) {
    if (candidate.missing.empty() && !agrees_with_portable(*candidate.kernels)) {
      candidate.missing = "the CPU announces the instructions, but does not compute what portable code does";
    }
  }
  candidates.push_back({&portable_kernels(), ""});
  return candidates;
}

const std::vector<Candidate>& candidates() {
  static const std::vector<Candidate> found = find_candidates();
  return found;
}

}  // namespace

const std::vector<const Kernels*>& available_kernels() {
  static const std::vector<const Kernels*> available = [] {
    std::vector<const Kernels*> list;
    for (const Candidate& candidate : candidates()) {
      if (candidate.missing.empty()) list.push_back(candidate.kernels);
    }
    return list;
  }();
  return available;
}

const Kernels& choose_kernels(const std::string& name) {
  if (name.empty()) return *available_kernels().front();
  if (name == emulated_amx_kernels().name) return emulated_amx_kernels();
  std::string known;
  for (const Candidate& candidate : candidates()) {
    if (name == candidate.kernels->name) {
      if (candidate.missing.empty()) return *candidate.kernels;
      throw std::invalid_argument("kernels '" + name + "' cannot run here: " + candidate.missing);
    }
    known += (known.empty() ? "" : ", ") + std::string(candidate.kernels->name);
  }
  throw std::invalid_argument("kernels '" + name + "' are not known; there are: " + known);
}

const Kernels& kernels_of_environment() {
  const char* name = std::getenv("SMT_KERNELS");
  try {
    return choose_kernels(name == nullptr ? "" : name);
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(std::string("SMT_KERNELS: ") + error.what());
  }
}

}  // namespace smt::cpu
