// What a run does: read from the plan, a JSON file that smt.serving.loadgen writes. Its fields are those of the structs
// below, spans in seconds. A mistake throws PlanError: "plan: sources[0].rate: found -1; expected ...".
#pragma once

#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "clock.h"

namespace smt::loadgen {

struct PlanError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Timeout {
  Nanos after;  // the moment at which the call was due
  double weight;
};

// Calls of one method with payloads of one kind. The results are told apart by stream.
struct Stream {
  std::string name;
  double weight = 1;  // its share among its source's streams
  std::string path;   // "/smt.v1.PredictionService/Predict"
  std::vector<std::pair<std::string, std::string>> headers;
  // Of the payload file. Used in turn.
  uint32_t first_payload = 0;
  uint32_t payload_count = 0;
  // One is drawn for each call. Empty: no deadline.
  std::vector<Timeout> timeouts;
  // How long after the deadline an answer is still waited for. gRPC's own clients do not (0); waiting shows what the
  // server does with a request that is late.
  Nanos linger = 0;
  // This share of the calls is cancelled, after a span drawn evenly from [cancel_from, cancel_to].
  double cancel_fraction = 0;
  Nanos cancel_from = 0;
  Nanos cancel_to = 0;
  // A shorter message with the status OK is a bad answer.
  uint64_t min_response_bytes = 1;
};

enum class Mode { kClosed, kPoisson, kFixed, kReplay };

// Something that makes calls, independent of the plan's other sources.
struct Source {
  Mode mode = Mode::kClosed;
  // Closed: callers, each of which waits for its answer and then for `think` before it calls again.
  int callers = 0;
  Nanos think = 0;
  // Poisson, fixed: calls per second.
  double rate = 0;
  // Replay: a file of Arrival records, see schedule.h.
  std::filesystem::path arrivals;
  // Of Plan::streams.
  uint32_t first_stream = 0;
  uint32_t stream_count = 0;
};

struct Tls {
  std::string ca;    // file; empty: the system's
  std::string cert;  // file of the client's chain; empty: none
  std::string key;
  std::string server_name;  // that the certificate must have; empty: the target's host
};

struct Plan {
  std::vector<std::string> targets;  // "host:port"; connections are spread over them
  int connections = 1;               // in all; at least one per thread
  int threads = 1;
  Nanos warm_up = 0;  // before what is measured
  Nanos measured = 0;
  Nanos drain = 0;  // how long answers are waited for at the end
  uint64_t seed = 0;
  int64_t max_outstanding = 0;  // per thread; calls beyond it are not sent
  double disconnects = 0;       // connections closed abruptly, per second, of all
  bool use_tls = false;
  Tls tls;
  // A folder where every answer OK is kept, see answers.h; empty: none is.
  std::filesystem::path answers;
  std::vector<Stream> streams;
  std::vector<Source> sources;

  Nanos length() const { return warm_up + measured; }
};

// `payloads`: how many the payload file holds; streams may not name others.
Plan parse_plan(const std::string& text, size_t payloads);

}  // namespace smt::loadgen
