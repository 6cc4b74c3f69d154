// Runs every target on its corpus: what the fuzzers found, any compiler and sanitizer can look at again.
//
//   fuzz_replay CORPUS
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "targets.h"

int main(int argc, char** argv) {
  namespace fs = std::filesystem;
  using namespace smt::fuzz;
  const std::map<std::string, void (*)(Bytes)> targets{{"binary_manifest", binary_manifest},
                                                       {"connection", connection},
                                                       {"feature_spec", feature_spec},
                                                       {"model_infer", model_infer},
                                                       {"multi_predict", multi_predict},
                                                       {"other_request", other_request},
                                                       {"predict", predict},
                                                       {"safetensors", safetensors},
                                                       {"scheduling", scheduling},
                                                       {"snapshot_manifest", snapshot_manifest},
                                                       {"tile_program", tile_program}};
  if (argc != 2) {
    std::fprintf(stderr, "usage: fuzz_replay CORPUS\n");
    return 2;
  }
  for (const auto& [name, target] : targets) {
    int count = 0;
    for (const auto& file : fs::directory_iterator(fs::path(argv[1]) / name)) {
      std::ifstream in(file.path(), std::ios::binary);
      const std::vector<char> bytes{std::istreambuf_iterator<char>(in), {}};
      target({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
      ++count;
    }
    std::printf("%s: %d inputs\n", name.c_str(), count);
    if (count == 0) return 1;
  }
}
