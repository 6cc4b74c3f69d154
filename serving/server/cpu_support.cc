#include "cpu_support.h"

#include <vector>

#include "names.h"
#include "refusal.h"

namespace smt::server {
namespace {

struct Isa {
  const char* name;
  bool supported;
};

std::vector<Isa> known() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  // CPUID leaf 7: EDX bit 22 is AMX-BF16, bit 24 AMX-TILE (GCC 12's builtin does not know their names).
  unsigned int eax = 7;
  unsigned int ebx = 0;
  unsigned int ecx = 0;
  unsigned int edx = 0;
  __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  bool amx = bf16 && (edx >> 22 & 1) != 0 && (edx >> 24 & 1) != 0;
#else
  bool avx2 = false, avx512 = false, vnni = false, bf16 = false, amx = false;
#endif
  return {{"scalar", true},      {"avx2", avx2},        {"avx512", avx512},
          {"avx512_vnni", vnni}, {"avx512_bf16", bf16}, {"amx_bf16", amx}};
}

}  // namespace

void check_isa(const std::string& isa, const std::string& shown) {
  std::vector<std::string> supported;
  bool is_known = false;
  for (const Isa& entry : known()) {
    if (entry.supported) supported.emplace_back(entry.name);
    if (isa != entry.name) continue;
    if (entry.supported) return;
    is_known = true;
  }
  throw Refused(Reason::kBinary,
                shown + ": field 'isa': found " + quote(isa) +
                    (is_known ? ", which this CPU does not have" : ", which this server does not know") +
                    "; this CPU runs: " + joined(supported));
}

}  // namespace smt::server
