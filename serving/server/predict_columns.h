// The features of a PredictRequest as transformation columns, without copying values.
#pragma once

#include <string_view>
#include <vector>

#include "smt/v1/prediction.pb.h"
#include "transform.h"

namespace smt::server {

// Reused from request to request by one thread. The columns point into the request and into this object.
class PredictColumns {
 public:
  // Throws transform::InputError for a feature without values (the oneof not set).
  void view(const v1::PredictRequest& request);

  std::span<const transform::Column> context() const { return context_; }
  std::span<const transform::Column> candidates() const { return candidates_; }

 private:
  transform::Column column(const v1::Feature& feature);

  std::vector<transform::Column> context_;
  std::vector<transform::Column> candidates_;
  std::vector<std::string_view> strings_;  // of all string columns, one after the other
};

}  // namespace smt::server
