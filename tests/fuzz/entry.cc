// libFuzzer's entry: SMT_TARGET is the function of targets.h that this program fuzzes.
#include "targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  smt::fuzz::SMT_TARGET({data, size});
  return 0;
}
