#include "report.h"

#include <nlohmann/json.hpp>

namespace smt::loadgen {
namespace {

using nlohmann::ordered_json;

constexpr double kMicrosecond = 1e-3;  // in nanoseconds

// Nanoseconds; every bucket as [its lowest value, count].
ordered_json histogram(const Histogram& from) {
  ordered_json buckets = ordered_json::array();
  from.for_each([&](int64_t lowest, uint64_t count) { buckets.push_back({lowest, count}); });
  return {{"count", from.count()},
          {"sum_ns", from.sum()},
          {"min_ns", from.min()},
          {"max_ns", from.max()},
          {"buckets", std::move(buckets)}};
}

ordered_json stream_json(const Stream& stream, const StreamStats& stats) {
  ordered_json outcomes = ordered_json::object();
  ordered_json since_sent = ordered_json::object();
  ordered_json totals = ordered_json::object();
  for (size_t i = 0; i < kOutcomes; ++i) {
    std::string name(kOutcomeNames[i]);
    if (stats.latency[i]) outcomes[name] = histogram(*stats.latency[i]);
    if (stats.since_sent[i]) since_sent[name] = histogram(*stats.since_sent[i]);
    if (stats.total[i] > 0) totals[name] = stats.total[i];
  }
  return {{"name", stream.name},
          {"outcomes", std::move(outcomes)},
          {"since_sent", std::move(since_sent)},
          {"totals", std::move(totals)},
          {"ok_rows", stats.ok_rows},
          {"request_bytes", stats.request_bytes},
          {"response_bytes", stats.response_bytes},
          {"late_ok", stats.late_ok},
          {"latest_ok_ns", stats.latest_ok}};
}

}  // namespace

std::string report(const Plan& plan, const WorkerStats& stats, const Window& window) {
  ordered_json sources = ordered_json::array();
  for (size_t i = 0; i < plan.sources.size(); ++i) {
    const Source& source = plan.sources[i];
    ordered_json streams = ordered_json::array();
    for (uint32_t k = source.first_stream; k < source.first_stream + source.stream_count; ++k) {
      streams.push_back(stream_json(plan.streams[k], stats.streams[k]));
    }
    ordered_json made{{"latency_from", source.mode == Mode::kClosed ? "sent" : "intended"}};
    if (source.mode != Mode::kClosed) made["lag"] = histogram(stats.lag[i]);
    made["streams"] = std::move(streams);
    sources.push_back(std::move(made));
  }
  return ordered_json{{"seconds", window.seconds},
                      {"generator_cpu_seconds", window.cpu_seconds},
                      {"threads", plan.threads},
                      {"connections", plan.connections},
                      {"connections_ended", stats.connections_ended},
                      {"connections_broken", stats.connections_broken},
                      {"retried", stats.retried},
                      {"prompt", stats.prompt},
                      {"wire_bytes_in", stats.bytes_in},
                      {"wire_bytes_out", stats.bytes_out},
                      {"sources", std::move(sources)}}
      .dump();
}

std::string progress_line(double at, const Interval& interval) {
  auto micros = [](int64_t nanos) { return static_cast<double>(nanos) * kMicrosecond; };
  return ordered_json{{"at", at},
                      {"ok", interval.ok},
                      {"failed", interval.failed},
                      {"rows", interval.rows},
                      {"outstanding", interval.outstanding},
                      {"p50_us", micros(interval.latency.quantile(0.5))},
                      {"p99_us", micros(interval.latency.quantile(0.99))},
                      {"max_us", micros(interval.latency.max())},
                      {"lag_p99_us", micros(interval.lag.quantile(0.99))}}
      .dump();
}

}  // namespace smt::loadgen
