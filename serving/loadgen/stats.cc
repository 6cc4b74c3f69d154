#include "stats.h"

#include <algorithm>

namespace smt::loadgen {

namespace {

void add_histogram(std::unique_ptr<Histogram>& to, const std::unique_ptr<Histogram>& from) {
  if (!from) return;
  if (!to) to = std::make_unique<Histogram>();
  to->add(*from);
}

}  // namespace

void StreamStats::add(const StreamStats& other) {
  for (size_t i = 0; i < kOutcomes; ++i) {
    total[i] += other.total[i];
    add_histogram(latency[i], other.latency[i]);
    add_histogram(since_sent[i], other.since_sent[i]);
  }
  ok_rows += other.ok_rows;
  request_bytes += other.request_bytes;
  response_bytes += other.response_bytes;
  late_ok += other.late_ok;
  latest_ok = std::max(latest_ok, other.latest_ok);
}

void WorkerStats::add(const WorkerStats& other) {
  streams.resize(other.streams.size());
  lag.resize(other.lag.size());
  for (size_t i = 0; i < streams.size(); ++i) streams[i].add(other.streams[i]);
  for (size_t i = 0; i < lag.size(); ++i) lag[i].add(other.lag[i]);
  connections_ended += other.connections_ended;
  connections_broken += other.connections_broken;
  retried += other.retried;
  prompt = prompt || other.prompt;
  bytes_in += other.bytes_in;
  bytes_out += other.bytes_out;
}

void Interval::add(const Interval& other) {
  latency.add(other.latency);
  lag.add(other.lag);
  ok += other.ok;
  failed += other.failed;
  rows += other.rows;
  outstanding += other.outstanding;
}

void Interval::clear() {
  latency.clear();
  lag.clear();
  ok = failed = rows = outstanding = 0;
}

}  // namespace smt::loadgen
