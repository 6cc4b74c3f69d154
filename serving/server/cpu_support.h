// Which instruction sets a template binary may ask for, and whether this CPU has them.
#pragma once

#include <string>

namespace smt::server {

// Throws Refused(kBinary) when `isa` is unknown, or not supported here; the message lists what is. Known: scalar,
// avx2, avx512, avx512_vnni, avx512_bf16, amx_bf16.
void check_isa(const std::string& isa, const std::string& shown);

}  // namespace smt::server
