#include "predict_call.h"

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <cmath>

#include "log.h"
#include "missing_scenario.h"
#include "names.h"
#include "parse_message.h"
#include "predict_columns.h"
#include "program.h"
#include "request_arena.h"
#include "wire_scan.h"

namespace smt::server {
namespace {

constexpr size_t kMaxRequestId = 256;

constexpr std::array<grpc::StatusCode, kOutcomeNames.size()> kCodes{grpc::StatusCode::OK,
                                                                    grpc::StatusCode::CANCELLED,
                                                                    grpc::StatusCode::INVALID_ARGUMENT,
                                                                    grpc::StatusCode::DEADLINE_EXCEEDED,
                                                                    grpc::StatusCode::NOT_FOUND,
                                                                    grpc::StatusCode::RESOURCE_EXHAUSTED,
                                                                    grpc::StatusCode::INTERNAL,
                                                                    grpc::StatusCode::UNAVAILABLE};

// Smaller messages are parsed without a scan: what they can grow to does not matter.
constexpr size_t kScanAbove = size_t{64} << 10;

Job::Clock::time_point steady_deadline(const grpc::CallbackServerContext& context) {
  auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return Job::Clock::time_point::max();
  auto left = deadline - std::chrono::system_clock::now();
  if (left > std::chrono::hours(24 * 365)) return Job::Clock::time_point::max();
  return Job::Clock::now() + std::chrono::duration_cast<Job::Clock::duration>(left);
}

double seconds(Job::Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }
int64_t microseconds(Job::Clock::duration duration) {
  return std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
}

// Buffers of one worker thread, kept from request to request.
struct Scratch {
  PredictColumns columns;
  transform::Batch batch;
  std::vector<int32_t> block_slot;
  std::vector<float> scores;
};

Scratch& scratch() {
  thread_local Scratch buffers;
  return buffers;
}

}  // namespace

PredictCall::PredictCall(ServerState& state, grpc::CallbackServerContext& context, const grpc::ByteBuffer& request,
                         grpc::ByteBuffer& response)
    : state_(state),
      deadline_(steady_deadline(context)),
      request_bytes_(request),
      response_bytes_(response),
      bytes_(request.Length()),
      arena_(request_arena(bytes_)),
      request_(google::protobuf::Arena::CreateMessage<v1::PredictRequest>(&arena_)),
      response_(google::protobuf::Arena::CreateMessage<v1::PredictResponse>(&arena_)),
      metrics_(&state.metrics.find("")) {}

void PredictCall::OnDone() {
  snapshot_.reset();  // before leaving: whoever waits for the gate to be idle may then unload what it referred to
  if (entered_) state_.gate.leave();
  delete this;
}

void PredictCall::start() {
  try {
    admit();
  } catch (const Failure& failure) {
    return fail(failure);
  } catch (const std::exception& error) {
    return fail({Outcome::kInternal, error.what()});
  }
  // From here a worker may answer, and delete this call, at any moment.
  ServerState& state = state_;
  WorkerPool::Admission admission = state.pool.submit(this);
  if (admission == WorkerPool::Admission::kFull) {
    fail({Outcome::kResourceExhausted,
          "the queue is full: " + std::to_string(state.options.queue_depth) + " requests or " +
              std::to_string(state.options.queue_bytes) +
              " bytes are waiting; retry after a pause that grows with each attempt, or start the server with more "
              "--workers"});
  } else if (admission == WorkerPool::Admission::kStopped) {
    fail({Outcome::kUnavailable, "the server is draining; send the request to another one"});
  }
}

void PredictCall::admit() {
  entered_ = state_.gate.enter();
  if (!entered_) throw Failure{Outcome::kUnavailable, "the server is draining; send the request to another one"};
  if (bytes_ > kScanAbove) {
    grpc::ByteBuffer bytes = request_bytes_;  // shares the slices; reading consumes the handle
    grpc::ProtoBufferReader reader(&bytes);
    std::string error = scan_request(reader, RequestKind::kPredict, wire_limits(state_.options.max_rows));
    if (!error.empty()) throw Failure{Outcome::kInvalidArgument, error};
  }
  if (std::string error = parse_message(request_bytes_, *request_); !error.empty()) {
    throw Failure{Outcome::kInvalidArgument, error};
  }
  bytes_ += arena_.SpaceAllocated();
  if (request_->request_id().size() > kMaxRequestId) {
    std::string found = std::to_string(request_->request_id().size());
    request_->clear_request_id();  // neither echoed nor logged
    throw Failure{Outcome::kInvalidArgument,
                  "request_id: " + found + " bytes; expected at most " + std::to_string(kMaxRequestId)};
  }
  if (request_->scenario().empty()) {
    throw Failure{Outcome::kInvalidArgument, "scenario: empty; expected the name of a scenario"};
  }
  metrics_ = &state_.metrics.find(request_->scenario());
  snapshot_ = state_.store.find(request_->scenario());
  if (!snapshot_) {
    MissingScenario missing = describe_missing(state_, request_->scenario());
    throw Failure{missing.unknown ? Outcome::kNotFound : Outcome::kUnavailable, missing.message};
  }
  if (!request_->version().empty() && request_->version() != snapshot_->version) {
    throw Failure{Outcome::kNotFound, "version: " + quote(request_->version()) + " of scenario " +
                                          quote(snapshot_->scenario) + " is not being served; " +
                                          quote(snapshot_->version) + " is"};
  }
  resolve_tasks();
}

void PredictCall::resolve_tasks() {
  if (request_->tasks().empty()) {
    for (const Task& task : snapshot_->tasks) tasks_.push_back(&task);
    return;
  }
  for (int i = 0; i < request_->tasks_size(); ++i) {
    const std::string& name = request_->tasks(i);
    auto same = [&](const Task& task) { return task.name == name; };
    auto found = std::find_if(snapshot_->tasks.begin(), snapshot_->tasks.end(), same);
    std::string where = "tasks[" + std::to_string(i) + "]: ";
    if (found == snapshot_->tasks.end()) {
      std::vector<std::string> names;
      for (const Task& task : snapshot_->tasks) names.push_back(task.name);
      throw Failure{Outcome::kInvalidArgument, where + quote(name) + " is not a task of scenario " +
                                                   quote(snapshot_->scenario) + "; its tasks: " + joined(names)};
    }
    if (std::find(tasks_.begin(), tasks_.end(), &*found) != tasks_.end()) {
      throw Failure{Outcome::kInvalidArgument, where + quote(name) + " occurs twice; expected each task once"};
    }
    tasks_.push_back(&*found);
  }
}

void PredictCall::run() noexcept {
  try {
    score();
  } catch (const Failure& failure) {
    return fail(failure);
  } catch (const transform::InputError& error) {
    return fail({Outcome::kInvalidArgument, error.what()});
  } catch (const std::bad_alloc&) {
    return fail({Outcome::kResourceExhausted, "not enough memory for this request; send fewer candidates"});
  } catch (const std::exception& error) {
    return fail({Outcome::kInternal, "scenario " + quote(snapshot_->scenario) + " version " +
                                         quote(snapshot_->version) + ": " + error.what()});
  }
  bool own_buffer = false;
  grpc::Status status =
      grpc::SerializationTraits<v1::PredictResponse>::Serialize(*response_, &response_bytes_, &own_buffer);
  if (!status.ok()) return fail({Outcome::kInternal, "cannot serialise the response: " + status.error_message()});
  metrics_->rows->Increment(request_->rows());
  finish(Outcome::kOk, grpc::Status::OK);
}

void PredictCall::score() {
  Scratch& use = scratch();
  Clock::time_point begin = Clock::now();
  use.columns.view(*request_);
  transform::Limits limits;
  limits.max_rows = state_.options.max_rows;
  snapshot_->features.apply(request_->rows(), use.columns.context(), use.columns.candidates(), limits, use.batch);
  Clock::time_point transformed = Clock::now();
  use.block_slot.assign(static_cast<size_t>((use.batch.rows + cpu::kRowBlock - 1) / cpu::kRowBlock),
                        snapshot_->weights.index());
  snapshot_->binary->run(use.block_slot, use.batch, use.scores);
  Clock::time_point computed = Clock::now();
  fill_response(use.scores);
  v1::Timings* timings = response_->mutable_timings();
  timings->set_queue_us(microseconds(begin - arrived_));
  timings->set_transform_us(microseconds(transformed - begin));
  timings->set_compute_us(microseconds(computed - transformed));
  metrics_->queue_seconds->Observe(seconds(begin - arrived_));
  metrics_->transform_seconds->Observe(seconds(transformed - begin));
  metrics_->compute_seconds->Observe(seconds(computed - transformed));
}

void PredictCall::fill_response(const std::vector<float>& scores) {
  auto rows = static_cast<size_t>(request_->rows());
  auto heads = static_cast<size_t>(snapshot_->binary->manifest().tasks);
  response_->set_version(snapshot_->version);
  response_->set_request_id(request_->request_id());
  for (const Task* task : tasks_) {
    v1::TaskScores* out = response_->add_tasks();
    out->set_task(task->name);
    google::protobuf::RepeatedField<float>* values = out->mutable_probabilities();
    values->Resize(static_cast<int>(rows), 0.0F);
    const float* score = scores.data() + task->head;
    for (size_t row = 0; row < rows; ++row, score += heads) {
      if (!std::isfinite(*score)) {
        throw Failure{Outcome::kInternal, "scenario " + quote(snapshot_->scenario) + " version " +
                                              quote(snapshot_->version) + " task " + quote(task->name) +
                                              ": the score of row " + std::to_string(row) + " is not finite"};
      }
      values->Set(static_cast<int>(row), *score);
    }
  }
}

void PredictCall::drop(Drop reason) noexcept {
  switch (reason) {
    case Drop::kExpired:
      return fail({Outcome::kDeadlineExceeded, "the deadline passed before compute started"});
    case Drop::kCancelled:
      return fail({Outcome::kCancelled, "cancelled by the client before compute started"});
    case Drop::kShutdown:
      return fail({Outcome::kUnavailable, "the server is shutting down"});
  }
}

void PredictCall::fail(const Failure& failure) {
  log::Level level = failure.outcome == Outcome::kInternal ? log::Level::kError : log::Level::kDebug;
  if (log::enabled(level)) {
    log::write(level, "request_failed",
               {{"code", kOutcomeNames[static_cast<size_t>(failure.outcome)]},
                {"message", shortened(failure.message)},
                {"scenario", snapshot_ ? snapshot_->scenario : shortened(request_->scenario(), 80)},
                {"request_id", request_->request_id()}});
  }
  finish(failure.outcome, grpc::Status(kCodes[static_cast<size_t>(failure.outcome)], shortened(failure.message)));
}

void PredictCall::finish(Outcome outcome, const grpc::Status& status) {
  metrics_->outcome(outcome).Increment();
  metrics_->request_seconds->Observe(seconds(Clock::now() - arrived_));
  Finish(status);
}

}  // namespace smt::server
