#include "options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <thread>

#include "cores.h"
#include "kernels.h"
#include "memory_limit.h"
#include "security_options.h"
#include "version.h"

namespace smt::server {
namespace {

// Here, where it is an error of usage: the ops would find it on the first request.
std::string kernels_name() {
  try {
    return cpu::kernels_of_environment().name;
  } catch (const std::invalid_argument& error) {
    throw CLI::ParseError(error.what(), CLI::ExitCodes::ValidationError);
  }
}

// When a canary is taken out of service by itself.
void add_canary_options(CLI::App& app, CanaryRules& rules) {
  app.add_option("--canary-error-rate", rules.error_rate,
                 "Share of failed requests above the stable version's at which a canary is rolled back; 0: never")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--canary-latency-ratio", rules.latency_ratio,
                 "p99 of a canary over the stable version's at which it is rolled back; 0: never")
      ->check(CLI::NonNegativeNumber);
  app.add_option(
         "--canary-drift", rules.drift,
         "Relative difference of a task's mean prediction from the stable version's at which a canary is rolled "
         "back; 0: never")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--canary-min-requests", rules.min_requests,
                 "Requests that a canary is judged by, at least; of the last minute or two")
      ->check(CLI::Range(int64_t{10}, int64_t{1} << 40));
}

}  // namespace

Options parse_options(int argc, const char* const* argv, std::optional<int>& exit_code) {
  Options options;
  const size_t cores = usable_cores().size();
  options.workers = static_cast<int>(cores > 0 ? cores : std::max(1U, std::thread::hardware_concurrency()));
  options.memory_limit = default_memory_limit();
  CLI::App app{
      "Serves every scenario of a registry over gRPC (smt.v1.PredictionService, the Open Inference Protocol v2, "
      "grpc.health.v1, reflection), from one compiled binary per template.\nOpens two ports, both for this machine "
      "only unless told otherwise: the data port "
      "(--port) and /metrics\n(--metrics-port); a third, for operators, with --control-port.\nPublished snapshots are "
      "taken while requests run. SIGTERM or SIGINT drains; a "
      "second one exits at once.\nHealth of \"\" is SERVING while this process accepts calls; a scenario's own "
      "state is the health of its name.",
      "smt-server"};
  app.option_defaults()->always_capture_default();
  app.footer(
      "Environment:\n  SMT_KERNELS  CPU kernels to compute with: portable, avx2, avx512, avx512_bf16 or amx; default: "
      "the "
      "fastest that this machine runs");
  app.set_version_flag("--version", kVersion);
  app.add_option("--registry", options.registry, "Registry folder, as `smt publish` writes it; may be empty at first")
      ->required()
      ->check(CLI::ExistingDirectory);
  app.add_option("--host", options.host,
                 "Address that --port listens on. The default answers this machine only; without --tls-client-ca "
                 "whoever reaches it may ask for scores, so open it (0.0.0.0, ::) on trusted networks alone");
  app.add_option("--port", options.port,
                 "Data port, gRPC: scores, metadata, health, reflection; nothing there changes what is served. 0: the "
                 "system picks one")
      ->check(CLI::Range(0, 65535));
  app.add_option("--metrics-host", options.metrics_host,
                 "Address that --metrics-port listens on; open it to where Prometheus runs");
  app.add_option(
         "--metrics-port", options.metrics_port,
         "Port of Prometheus' /metrics: HTTP without TLS or authentication, IPv4; numbers and scenarios' names, "
         "no features or scores. 0: the system picks one")
      ->check(CLI::Range(0, 65535));
  add_security_options(app, options);
  app.add_option("--workers", options.workers, "Threads that compute")->check(CLI::Range(1, 1024));
  app.add_option("--max-rows", options.max_rows, "Most candidates of one request; more is INVALID_ARGUMENT")
      ->check(CLI::Range(int64_t{1}, int64_t{65536}));
  app.add_option("--max-message-bytes", options.max_message_bytes,
                 "Largest request message; a larger one is RESOURCE_EXHAUSTED")
      ->check(CLI::Range(int64_t{1024}, int64_t{1} << 30));
  app.add_option("--block-rows", options.block_rows,
                 "Most rows that a worker computes in one go, a multiple of 16: requests with more are split over the "
                 "workers, and nobody waits behind more than the blocks that run")
      ->check(CLI::Range(int64_t{16}, int64_t{4096}))
      ->check(CLI::Validator(
          [](const std::string& text) {
            return std::stoll(text) % 16 == 0 ? std::string() : text + " is not a multiple of 16";
          },
          "", "multiple of 16"));
  app.add_option("--connection-calls", options.connection_calls,
                 "Most calls in flight of one connection; further ones wait in their client until one is answered")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--queue-bytes", options.queue_bytes,
                 "Most bytes of requests waiting for a worker, over all scenarios; beyond them the scenario that holds "
                 "most is answered RESOURCE_EXHAUSTED")
      ->check(CLI::Range(int64_t{1024}, int64_t{1} << 40));
  app.add_option("--scheduling", options.scheduling,
                 "JSON file with each scenario's weight, priority, queue_requests, queue_ms and rows_per_second under "
                 "\"scenarios\", and \"default\" for all; read again when it changes")
      ->check(CLI::ExistingFile)
      ->always_capture_default(false);
  app.add_option("--access-log", options.access_log, "Share of the calls that get a line in the log, 0..1")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--poll-ms", options.poll_ms, "How often the registry is looked at, in milliseconds")
      ->check(CLI::Range(1, 3'600'000));
  app.add_option(
         "--memory-limit", options.memory_limit,
         "Most bytes of weights in memory: a snapshot that does not fit is refused, after versions that are only "
         "kept for a rollback were given up. Default: what the machine or the cgroup has, minus an eighth. 0: "
         "no limit")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--load-bytes-per-second", options.load_bytes_per_second,
                 "Most bytes of weights read in a second while requests are served, so that loading takes no more than "
                 "that of disk and memory from them; what is loaded at the start is not held back. 0: no limit")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--keep-warm", options.keep_warm,
                 "Whether the version before the current one stays in memory, so that a rollback needs no load");
  add_canary_options(app, options.canary);
  app.add_option(
         "--shadow-queue-bytes", options.shadow_queue_bytes,
         "Most bytes of answered requests that wait to be scored again by shadows; beyond them they are dropped "
         "and counted. 0: no shadows")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40));
  app.add_option("--drain-seconds", options.drain_seconds,
                 "On SIGTERM, how long requests in flight may take before they are cancelled")
      ->check(CLI::Range(0, 3600));
  app.add_option(
         "--port-file", options.port_file,
         "File to write {\"port\", \"metrics_port\", \"control_port\", \"pid\"} to once every scenario is loaded")
      ->always_capture_default(false);
  app.add_option("--log-level", options.log_level,
                 "Least level of the JSON lines on stderr: debug, info, warn or error")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}));
  try {
    app.parse(argc, argv);
    options.kernels = kernels_name();
  } catch (const CLI::ParseError& error) {
    exit_code = app.exit(error) == 0 ? 0 : 2;
  }
  return options;
}

}  // namespace smt::server
