// Command line of smt-server.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "canary_monitor.h"
#include "log.h"
#include "pem_files.h"

namespace smt::server {

struct Options {
  std::filesystem::path registry;
  std::string host = "127.0.0.1";
  int port = 8500;  // 0: the system picks
  TlsFiles tls;     // of that port
  std::string metrics_host = "127.0.0.1";
  int metrics_port = 8501;          // 0: the system picks
  std::optional<int> control_port;  // none: no control service; 0: the system picks
  std::string control_host = "127.0.0.1";
  std::filesystem::path control_token_file;  // empty: none
  TlsFiles control_tls;
  int workers = 0;  // set to the number of usable cores when not given
  int64_t max_rows = 4096;
  int64_t max_message_bytes = 16 << 20;
  int64_t block_rows = 256;
  int connection_calls = 1000;
  int64_t queue_bytes = int64_t{256} << 20;
  std::filesystem::path scheduling;  // empty: none
  double access_log = 0;
  int poll_ms = 50;
  bool keep_warm = true;
  CanaryRules canary{};
  int64_t shadow_queue_bytes = int64_t{16} << 20;  // 0: no shadows
  int64_t load_bytes_per_second = 0;               // 0: no limit
  int64_t memory_limit = 0;                        // bytes of weights; set to what the machine allows when not given
  int drain_seconds = 20;
  std::filesystem::path port_file;  // empty: none
  std::string log_level = "info";
  std::string kernels;  // name of the CPU kernels in use; not a flag: the environment variable SMT_KERNELS
};

// Parses argv, and the environment variable SMT_KERNELS. Prints help, version or the error itself; then `exit_code` is
// set (0 for help and version, 2 for an error) and the caller exits with it.
Options parse_options(int argc, const char* const* argv, std::optional<int>& exit_code);

}  // namespace smt::server
