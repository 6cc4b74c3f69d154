// smt-server: see --help.
#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <nlohmann/json.hpp>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "file_io.h"
#include "kernels.h"
#include "log.h"
#include "names.h"
#include "options.h"
#include "server.h"
#include "signals.h"
#include "version.h"

namespace {

using smt::server::Options;
using smt::server::Server;
namespace log = smt::server::log;

// gRPC's own messages, in our format.
void grpc_log(gpr_log_func_args* args) {
  log::Level level = args->severity == GPR_LOG_SEVERITY_ERROR  ? log::Level::kError
                     : args->severity == GPR_LOG_SEVERITY_INFO ? log::Level::kInfo
                                                               : log::Level::kDebug;
  log::write(level, "grpc", {{"message", args->message}});
}

// Protobuf's, in our format; at debug level, since a client's malformed message causes them.
void protobuf_log(google::protobuf::LogLevel, const char*, int, const std::string& message) {
  log::debug("protobuf", {{"message", message}});
}

void wait_for(std::stop_token stop) {
  std::mutex mutex;
  std::condition_variable_any wake;
  std::unique_lock lock(mutex);
  wake.wait(lock, stop, [] { return false; });
}

void write_port_file(const Options& options, const Server& server) {
  if (options.port_file.empty()) return;
  nlohmann::json ports{{"port", server.port()}, {"metrics_port", server.metrics_port()}, {"pid", getpid()}};
  if (server.control_port()) ports["control_port"] = *server.control_port();
  smt::server::write_atomically(options.port_file, ports.dump() + "\n");
}

// Ends the process should the drain hang: a supervisor's SIGKILL would come without a word in the log.
void guard_drain(int drain_seconds) {
  std::thread([seconds = drain_seconds + 5] {
    std::this_thread::sleep_for(std::chrono::seconds(seconds));
    log::error("drain_hung", {{"seconds", seconds}});
    _exit(1);
  }).detach();
}

void log_kernels(const Options& options) {
  std::vector<std::string> available;
  for (const smt::cpu::Kernels* kernels : smt::cpu::available_kernels()) available.emplace_back(kernels->name);
  log::info("kernels", {{"in_use", options.kernels}, {"available", smt::server::joined(available)}});
}

[[noreturn]] void serve(const Options& options, const std::stop_source& source) {
  std::stop_token stop = source.get_token();
  Server server(options, source);
  server.load(stop);
  if (!stop.stop_requested()) {
    write_port_file(options, server);
    log::info("ready", {{"host", options.host},
                        {"port", server.port()},
                        {"metrics_port", server.metrics_port()},
                        {"control_port", server.control_port().value_or(0)},
                        {"workers", options.workers},
                        {"version", smt::server::kVersion}});
    wait_for(stop);
  }
  int seconds = server.drain_seconds();
  guard_drain(seconds);
  server.drain(seconds);
  _exit(0);  // see Server::drain()
}

}  // namespace

int main(int argc, char** argv) {
  std::optional<int> exit_code;
  Options options = smt::server::parse_options(argc, argv, exit_code);
  if (exit_code) return *exit_code;
  log::set_level(*log::parse_level(options.log_level));
  gpr_set_log_function(grpc_log);
  google::protobuf::SetLogHandler(protobuf_log);
  log_kernels(options);
  std::stop_source stop = smt::server::watch_signals();
  try {
    serve(options, stop);
  } catch (const std::exception& error) {
    log::error("failed", {{"reason", error.what()}});
    return 1;
  }
}
