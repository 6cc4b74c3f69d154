// A target's scores as messages of smt.v1.
#pragma once

#include "scoring_call.h"
#include "smt/v1/prediction.pb.h"

namespace smt::server {

// One entry per head that was asked for. Sets target.failure when a score is not finite.
void fill_scores(Target& target, google::protobuf::RepeatedPtrField<v1::TaskScores>& out);
void fill_timings(const Target& target, Work::Clock::time_point arrived, v1::Timings& out);

}  // namespace smt::server
