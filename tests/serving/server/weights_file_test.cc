#include "weights_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "file_digest.h"
#include "names.h"
#include "refused_by.h"
#include "registry_builder.h"

namespace smt::server {
namespace {

struct Weights {
  WeightShapes shapes;
  std::vector<float> slab;
  std::vector<float> table;

  PlaceWeights place() {
    return [this](const WeightShapes& found) -> WeightPlaces {
      shapes = found;
      slab.resize(static_cast<size_t>(found.slab_elements));
      table.resize(static_cast<size_t>(found.table_rows * found.dim));
      return {slab, table};
    };
  }
};

std::string xxh3_hex(const std::string& bytes) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes.data(), bytes.size()));
  return hex_of(std::as_bytes(std::span(canonical.digest)));
}

class WeightsFile : public ::testing::Test {
 protected:
  // Reads `file`, of which the manifest says what it says of `promised`.
  Weights read(const std::string& file, const std::string& promised) {
    std::filesystem::path path = folder_.path() / "weights.safetensors";
    write_file(path, file);
    Weights weights;
    read_weights(path, "w", {"weights.safetensors", promised.size(), sha256_hex(promised)}, weights.place());
    return weights;
  }
  Weights read(const std::string& file) { return read(file, file); }

  TemporaryFolder folder_;
};

TEST_F(WeightsFile, ReadsTensorsToTheirPlaces) {
  Weights found = read(safetensors({{"slab", {3}, {1, 2, 3}}, {"table", {2, 2}, {4, 5, 6, 7}}}));
  EXPECT_EQ(found.slab, (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(found.table, (std::vector<float>{4, 5, 6, 7}));
  EXPECT_EQ(found.shapes.table_rows, 2);
  EXPECT_EQ(found.shapes.dim, 2);
}

TEST_F(WeightsFile, ReportsWhatDoesNotFitUnlessTheFileIsDamaged) {
  std::string file = weights();
  std::filesystem::path path = folder_.path() / "w";
  auto refuse = [](const WeightShapes&) -> WeightPlaces { throw Refused(Reason::kWeights, "does not fit"); };
  auto load = [&](const std::string& sha256) { read_weights(path, "w", {"w", file.size(), sha256}, refuse); };
  write_file(path, file);
  expect_refused(
      Reason::kWeights, [&] { load(sha256_hex(file)); }, "does not fit");
  expect_refused(
      Reason::kChecksum, [&] { load(std::string(64, '0')); }, "sha256 is");
  auto no_memory = [](const WeightShapes&) -> WeightPlaces { throw std::bad_alloc(); };
  expect_refused(
      Reason::kIo,
      [&] {
        read_weights(path, "w", {"w", file.size(), sha256_hex(file)}, no_memory);
      },
      "not enough memory for " + std::to_string(file.size()) + " bytes of weights");
}

TEST_F(WeightsFile, ReadsFilesLongerThanOneChunk) {
  std::vector<float> values(700'000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  Weights found = read(safetensors({{"slab", {1}, {9}}, {"table", {350'000, 2}, values}}));
  EXPECT_EQ(found.table[699'999], 699'999.0F);
  EXPECT_EQ(found.table[262'144], 262'144.0F);
}

TEST_F(WeightsFile, ReadsLargeTablesAsItReadsSmallOnes) {
  constexpr size_t kRows = 5'000'000;
  std::vector<float> values(kRows);
  for (size_t i = 0; i < kRows; ++i) values[i] = static_cast<float>(i);
  std::string file = safetensors({{"slab", {1}, {9}}, {"table", {kRows, 1}, values}});
  EXPECT_EQ(read(file).table, values);
  for (size_t at : {file.size() - values.size() * sizeof(float), file.size() / 2, file.size() - 1}) {
    std::string damaged = file;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    expect_refused(
        Reason::kChecksum, [&] { read(damaged, file); }, "sha256 is");
  }
  values[kRows - 1] = std::numeric_limits<float>::infinity();
  expect_refused(
      Reason::kWeights,
      [&] {
        read(safetensors({{"slab", {1}, {9}}, {"table", {kRows, 1}, values}}));
      },
      "tensor 'table': element 4999999 is not finite");
}

TEST_F(WeightsFile, RefusesEveryTruncationAndSaysWhatTheManifestPromised) {
  std::string file = weights();
  for (size_t length = 0; length < file.size(); length += 7) {
    expect_refused(
        Reason::kChecksum, [&] { read(file.substr(0, length), file); }, std::to_string(length) + " bytes",
        "the manifest says " + std::to_string(file.size()));
  }
  expect_refused(
      Reason::kChecksum, [&] { read(file + "x", file); }, "the manifest says");
}

TEST_F(WeightsFile, RefusesEveryFlippedByteAsDamage) {
  std::string file = weights();
  for (size_t at = 0; at < file.size(); ++at) {
    std::string damaged = file;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x40);
    // Also where the damage makes the header unreadable: the cause is told, not its consequence.
    expect_refused(
        Reason::kChecksum, [&] { read(damaged, file); }, "sha256 is");
  }
}

TEST_F(WeightsFile, LooksAtTheQuickDigestWhereTheManifestHasOne) {
  // Of XXH3-128's published test vectors: the digest of no bytes.
  FileEntry nothing{.name = "w", .bytes = 0, .sha256 = "", .xxh3 = "99aa06d3014798d86001c324468d497f"};
  EXPECT_NO_THROW(FileDigest(nothing).check("w"));

  std::string file = weights();
  FileEntry entry{.name = "w", .bytes = file.size(), .sha256 = std::string(64, '0'), .xxh3 = xxh3_hex(file)};
  for (size_t at = 0; at <= file.size(); ++at) {
    std::string damaged = file;
    if (at < file.size()) damaged[at] = static_cast<char>(damaged[at] ^ 0x40);
    write_file(folder_.path() / "w", damaged);
    auto read = [&] { read_weights(folder_.path() / "w", "w", entry, Weights().place()); };
    if (at == file.size()) {
      EXPECT_NO_THROW(read());
    } else {
      expect_refused(Reason::kChecksum, read, "w: xxh3 checksum is ", "; the manifest says " + entry.xxh3);
    }
  }
}

TEST_F(WeightsFile, RefusesWrongTensors) {
  expect_refused(
      Reason::kWeights,
      [&] {
        read(safetensors({{"slab", {1}, {1}}}));
      },
      "no tensor 'table'");
  expect_refused(
      Reason::kWeights,
      [&] {
        read(safetensors({{"table", {1, 1}, {1}}}));
      },
      "no tensor 'slab'");
  expect_refused(
      Reason::kWeights,
      [&] {
        read(safetensors({{"slab", {1}, {1}}, {"table", {1, 1}, {1}}, {"zz", {1}, {1}}}));
      },
      "tensor 'zz': expected only");
  expect_refused(
      Reason::kWeights,
      [&] {
        read(safetensors({{"slab", {1, 1}, {1}}, {"table", {1, 1}, {1}}}));
      },
      "tensor 'slab': found F32 of 2 dimensions; expected F32 of 1");
  expect_refused(
      Reason::kWeights,
      [&] {
        read(safetensors({{"slab", {1}, {1}}, {"table", {1}, {1}}}));
      },
      "tensor 'table': found F32 of 1 dimensions; expected F32 of 2");
  std::string wide = with_prefix(R"({"slab":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})", std::string(8, '\0'));
  expect_refused(
      Reason::kWeights, [&] { read(wide); }, "tensor 'slab': found F64");
}

TEST_F(WeightsFile, RefusesWeightsThatAreNotFinite) {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                    -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::signaling_NaN()}) {
    expect_refused(
        Reason::kWeights,
        [&] {
          read(safetensors({{"slab", {2}, {1, 2}}, {"table", {3, 1}, {1, 2, bad}}}));
        },
        "tensor 'table': element 2 is not finite");
    expect_refused(
        Reason::kWeights,
        [&] {
          read(safetensors({{"slab", {2}, {bad, 2}}, {"table", {1, 1}, {1}}}));
        },
        "tensor 'slab': element 0 is not finite");
  }
  float limits[] = {std::numeric_limits<float>::max(), std::numeric_limits<float>::lowest(),
                    std::numeric_limits<float>::denorm_min(), -0.0F};
  EXPECT_NO_THROW(read(safetensors({{"slab", {4}, {limits, limits + 4}}, {"table", {1, 1}, {1}}})));
}

TEST_F(WeightsFile, RefusesWhatIsNoFile) {
  FileEntry entry{"weights.safetensors", 10, std::string(64, '0')};
  std::filesystem::path path = folder_.path() / "w";
  expect_refused(
      Reason::kManifest, [&] { read_weights(path, "w", entry, Weights().place()); }, "w: no such file");
  std::filesystem::create_directory(path);
  expect_refused(
      Reason::kManifest, [&] { read_weights(path, "w", entry, Weights().place()); }, "w: not a regular file");
  std::filesystem::remove(path);
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  expect_refused(
      Reason::kManifest, [&] { read_weights(path, "w", entry, Weights().place()); }, "w: not a regular file");
}

TEST_F(WeightsFile, KeepsThePaceThatItIsGiven) {
  std::string file = weights();
  write_file(folder_.path() / "w", file);
  Pace pace;
  auto seconds = [&](int64_t rate) {
    pace.keep(rate, {});
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 2; ++i) {
      read_weights(folder_.path() / "w", "w", {"w", file.size(), sha256_hex(file)}, Weights().place(), {{}, &pace});
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  EXPECT_GE(seconds(static_cast<int64_t>(file.size()) * 10), 0.2) << "two files at ten a second";
}

TEST_F(WeightsFile, GivesWayAfterEachPart) {
  std::string file = weights();
  write_file(folder_.path() / "w", file);
  Pace pace;
  int ways = 0;
  pace.keep(0, [&](const std::stop_token&) { ++ways; });
  read_weights(folder_.path() / "w", "w", {"w", file.size(), sha256_hex(file)}, Weights().place(), {{}, &pace});
  EXPECT_GE(ways, 4) << "the header's length, the header, the slab, the table";
}

TEST_F(WeightsFile, StopsWhenAskedAlsoWhileItKeepsThePace) {
  std::string file = weights();
  write_file(folder_.path() / "w", file);
  Pace pace;
  pace.keep(1, {});  // a byte a second
  std::stop_source stop;
  std::thread other([&] { stop.request_stop(); });
  expect_refused(
      Reason::kIo,
      [&] {
        read_weights(folder_.path() / "w", "w", {"w", file.size(), sha256_hex(file)}, Weights().place(),
                     {stop.get_token(), &pace});
      },
      "interrupted by shutdown");
  other.join();
}

TEST_F(WeightsFile, StopsWhenAsked) {
  std::string file = weights();
  write_file(folder_.path() / "w", file);
  std::stop_source stop;
  stop.request_stop();
  expect_refused(
      Reason::kIo,
      [&] {
        read_weights(folder_.path() / "w", "w", {"w", file.size(), sha256_hex(file)}, Weights().place(),
                     stop.get_token());
      },
      "interrupted by shutdown");
}

}  // namespace
}  // namespace smt::server
