#include "schedule.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "payloads.h"

namespace smt::loadgen {
namespace {

std::mt19937_64 seeded(uint64_t seed, size_t source, int worker) {
  std::seed_seq sequence{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), static_cast<uint32_t>(source),
                         static_cast<uint32_t>(worker)};
  return std::mt19937_64(sequence);
}

// In [0, 1).
double uniform(std::mt19937_64& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

std::vector<ReplayRecord> read_records(const Plan& plan, const Source& source) {
  std::string content = read_file(source.arrivals);
  std::vector<ReplayRecord> records(content.size() / sizeof(ReplayRecord));
  if (records.empty() || content.size() % sizeof(ReplayRecord) != 0) {
    throw PlanError(source.arrivals.string() + ": found " + std::to_string(content.size()) +
                    " bytes; expected a record of " + std::to_string(sizeof(ReplayRecord)) + " for each arrival");
  }
  std::memcpy(records.data(), content.data(), content.size());
  Nanos last = 0;
  for (size_t i = 0; i < records.size(); ++i) {
    const ReplayRecord& record = records[i];
    bool good = record.at >= last && record.stream < source.stream_count &&
                record.payload < plan.streams[source.first_stream + record.stream].payload_count;
    if (!good) {
      throw PlanError(source.arrivals.string() + ": record " + std::to_string(i) +
                      ": expected rising times, and a stream and payload of the plan");
    }
    last = record.at;
  }
  return records;
}

}  // namespace

Chooser::Chooser(const Plan& plan, size_t source, int worker)
    : plan_(plan), source_(plan.sources[source]), random_(seeded(plan.seed, source, worker)) {
  double sum = 0;
  for (uint32_t i = 0; i < source_.stream_count; ++i) {
    const Stream& stream = plan.streams[source_.first_stream + i];
    cumulative_.push_back(sum += stream.weight);
    // Threads begin at different payloads, so that they do not send the same ones side by side.
    next_payload_.push_back(static_cast<uint32_t>(random_() % stream.payload_count));
  }
}

uint32_t Chooser::pick_stream() {
  if (cumulative_.size() == 1) return 0;
  double at = uniform(random_) * cumulative_.back();
  auto found = std::upper_bound(cumulative_.begin(), cumulative_.end(), at);
  // The product above may round up to the sum.
  return static_cast<uint32_t>(std::min<ptrdiff_t>(found - cumulative_.begin(), source_.stream_count - 1));
}

Choice Chooser::next() {
  uint32_t i = pick_stream();
  const Stream& stream = plan_.streams[source_.first_stream + i];
  uint32_t payload = next_payload_[i];
  next_payload_[i] = payload + 1 == stream.payload_count ? 0 : payload + 1;
  return of(source_.first_stream + i, stream.first_payload + payload);
}

Choice Chooser::of(uint32_t number, uint32_t payload) {
  const Stream& stream = plan_.streams[number];
  Choice choice{number, payload, -1, -1};
  if (!stream.timeouts.empty()) {
    double sum = 0;
    for (const Timeout& timeout : stream.timeouts) sum += timeout.weight;
    double at = uniform(random_) * sum;
    choice.timeout = 0;
    while (choice.timeout + 1 < static_cast<int>(stream.timeouts.size()) &&
           at >= stream.timeouts[static_cast<size_t>(choice.timeout)].weight) {
      at -= stream.timeouts[static_cast<size_t>(choice.timeout++)].weight;
    }
  }
  if (stream.cancel_fraction > 0 && uniform(random_) < stream.cancel_fraction) {
    double span = static_cast<double>(stream.cancel_to - stream.cancel_from);
    choice.cancel = stream.cancel_from + static_cast<Nanos>(uniform(random_) * span);
  }
  return choice;
}

Schedule::Schedule(const Plan& plan, size_t source, int worker, int workers)
    : plan_(plan),
      source_(plan.sources[source]),
      chooser_(plan, source, worker),
      workers_(workers),
      gap_(source_.rate > 0 ? static_cast<double>(kSecond) * workers / source_.rate : 0),
      at_(0),
      index_(static_cast<size_t>(worker)) {
  if (source_.mode == Mode::kReplay) records_ = read_records(plan, source_);
}

std::optional<Arrival> Schedule::next() {
  size_t index = index_;
  index_ += static_cast<size_t>(workers_);
  switch (source_.mode) {
    case Mode::kPoisson:
      at_ += -std::log1p(-uniform(chooser_.random())) * gap_;
      return Arrival{std::llround(at_), chooser_.next()};
    case Mode::kFixed:
      return Arrival{std::llround(static_cast<double>(index) * gap_ / workers_), chooser_.next()};
    case Mode::kReplay: {
      if (index >= records_.size()) return std::nullopt;
      const ReplayRecord& record = records_[index];
      uint32_t stream = source_.first_stream + record.stream;
      return Arrival{record.at, chooser_.of(stream, plan_.streams[stream].first_payload + record.payload)};
    }
    case Mode::kClosed:
      break;
  }
  return std::nullopt;
}

}  // namespace smt::loadgen
