#include "scores_message.h"

namespace smt::server {
namespace {

int64_t microseconds(std::chrono::nanoseconds duration) {
  return std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
}

}  // namespace

void fill_scores(Target& target, google::protobuf::RepeatedPtrField<v1::TaskScores>& out) {
  for (const Task* head : target.heads) {
    v1::TaskScores* scores = out.Add();
    scores->set_task(head->name);
    scores->mutable_probabilities()->Resize(static_cast<int>(target.rows), 0.0F);
    if (!target.column(*head, scores->mutable_probabilities()->mutable_data())) return;
  }
}

void fill_timings(const Target& target, Work::Clock::time_point arrived, v1::Timings& out) {
  out.set_queue_us(microseconds(target.begun() - arrived));
  out.set_transform_us(microseconds(target.transform_time()));
  out.set_compute_us(microseconds(target.compute_time()));
}

}  // namespace smt::server
