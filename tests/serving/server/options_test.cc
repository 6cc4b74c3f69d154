#include "options.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <vector>

#include "kernels.h"
#include "temporary_folder.h"

namespace smt::server {
namespace {

class OptionsTest : public ::testing::Test {
 protected:
  Options parse(std::vector<std::string> arguments) {
    std::vector<const char*> argv{"smt-server"};
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    exit_code_.reset();
    ::testing::internal::CaptureStderr();
    ::testing::internal::CaptureStdout();
    Options options = parse_options(static_cast<int>(argv.size()), argv.data(), exit_code_);
    output_ = ::testing::internal::GetCapturedStdout() + ::testing::internal::GetCapturedStderr();
    return options;
  }
  std::string registry() const { return folder_.path().string(); }

  TemporaryFolder folder_;
  std::optional<int> exit_code_;
  std::string output_;
};

TEST_F(OptionsTest, DefaultsListenOnThisMachineOnly) {
  Options options = parse({"--registry", registry()});
  EXPECT_FALSE(exit_code_) << output_;
  EXPECT_EQ(options.host, "127.0.0.1");
  EXPECT_EQ(options.port, 8500);
  EXPECT_EQ(options.metrics_host, "127.0.0.1");
  EXPECT_EQ(options.metrics_port, 8501);
  EXPECT_FALSE(options.tls.enabled());
  EXPECT_EQ(options.max_rows, 4096);
  EXPECT_EQ(options.max_message_bytes, 16777216);
  EXPECT_GE(options.workers, 1);
  EXPECT_EQ(options.connection_calls, 1000);
}

TEST_F(OptionsTest, ReadsEveryFlag) {
  std::string scheduling = registry() + "/s.json";
  std::ofstream(scheduling) << "{}";
  Options options = parse({"--registry",
                           registry(),
                           "--host",
                           "::1",
                           "--port",
                           "0",
                           "--metrics-port",
                           "0",
                           "--workers",
                           "3",
                           "--max-rows",
                           "7",
                           "--max-message-bytes",
                           "2048",
                           "--block-rows",
                           "32",
                           "--connection-calls",
                           "50",
                           "--queue-bytes",
                           "4096",
                           "--poll-ms",
                           "5",
                           "--drain-seconds",
                           "1",
                           "--port-file",
                           "p",
                           "--log-level",
                           "debug",
                           "--access-log",
                           "0.25",
                           "--scheduling",
                           scheduling});
  EXPECT_FALSE(exit_code_) << output_;
  EXPECT_EQ(options.host, "::1");
  EXPECT_EQ(options.port, 0);
  EXPECT_EQ(options.metrics_port, 0);
  EXPECT_EQ(options.workers, 3);
  EXPECT_EQ(options.max_rows, 7);
  EXPECT_EQ(options.max_message_bytes, 2048);
  EXPECT_EQ(options.block_rows, 32);
  EXPECT_EQ(options.connection_calls, 50);
  EXPECT_EQ(options.access_log, 0.25);
  EXPECT_EQ(options.scheduling, scheduling);
  EXPECT_EQ(options.queue_bytes, 4096);
  EXPECT_EQ(options.poll_ms, 5);
  EXPECT_EQ(options.drain_seconds, 1);
  EXPECT_EQ(options.port_file, "p");
  EXPECT_EQ(options.log_level, "debug");
}

TEST_F(OptionsTest, TlsFilesBelongTogether) {
  Options options = parse({"--registry", registry(), "--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a"});
  EXPECT_FALSE(exit_code_) << output_;
  EXPECT_EQ(options.tls.cert, "c");
  EXPECT_EQ(options.tls.key, "k");
  EXPECT_EQ(options.tls.client_ca, "a");
  for (const char* flag : {"--tls-cert", "--tls-key", "--tls-client-ca"}) {
    parse({"--registry", registry(), flag, "f"});
    EXPECT_EQ(exit_code_, 2) << flag;
  }
}

TEST_F(OptionsTest, MistakesNameTheFlag) {
  const std::vector<std::vector<std::string>> kMistakes{
      {"--port", "65536"},       {"--port", "-1"},        {"--port", "http"},           {"--workers", "0"},
      {"--max-rows", "0"},       {"--max-rows", "65537"}, {"--log-level", "verbose"},   {"--block-rows", "24"},
      {"--drain-seconds", "-1"}, {"--poll-ms", "0"},      {"--max-message-bytes", "1"}, {"--block-rows", "0"},
      {"--access-log", "1.5"},   {"--scheduling", "none"}};
  for (const auto& mistake : kMistakes) {
    parse({"--registry", registry(), mistake[0], mistake[1]});
    EXPECT_EQ(exit_code_, 2) << mistake[0] << " " << mistake[1];
    EXPECT_NE(output_.find(mistake[0]), std::string::npos) << output_;
  }
  parse({});
  EXPECT_EQ(exit_code_, 2);
  EXPECT_NE(output_.find("--registry"), std::string::npos) << output_;
  parse({"--registry", registry() + "/none"});
  EXPECT_EQ(exit_code_, 2);
  EXPECT_NE(output_.find("/none"), std::string::npos) << output_;
  parse({"--registry", registry(), "--polling", "1"});
  EXPECT_EQ(exit_code_, 2);
}

TEST_F(OptionsTest, HelpExplainsEveryFlag) {
  parse({"--help"});
  EXPECT_EQ(exit_code_, 0);
  for (const char* flag : {"--registry", "--host", "--port", "--metrics-port", "--workers", "--max-rows",
                           "--max-message-bytes", "--block-rows", "--connection-calls", "--queue-bytes", "--scheduling",
                           "--access-log", "--poll-ms", "--drain-seconds", "--port-file", "--log-level", "--version"}) {
    EXPECT_NE(output_.find(flag), std::string::npos) << flag;
  }
}

TEST_F(OptionsTest, KernelsAreChosenByTheEnvironment) {
  ASSERT_EQ(setenv("SMT_KERNELS", "portable", 1), 0);
  Options options = parse({"--registry", registry()});
  EXPECT_FALSE(exit_code_) << output_;
  EXPECT_EQ(options.kernels, "portable");
  ASSERT_EQ(setenv("SMT_KERNELS", "mmx", 1), 0);
  parse({"--registry", registry()});
  EXPECT_EQ(exit_code_, 2);
  EXPECT_NE(output_.find("SMT_KERNELS: kernels 'mmx' are not known; there are: "), std::string::npos) << output_;
  parse({"--help"});
  EXPECT_EQ(exit_code_, 0);
  EXPECT_NE(output_.find("SMT_KERNELS"), std::string::npos) << output_;
  ASSERT_EQ(unsetenv("SMT_KERNELS"), 0);
  options = parse({"--registry", registry()});
  EXPECT_EQ(options.kernels, cpu::available_kernels().front()->name);
}

}  // namespace
}  // namespace smt::server
