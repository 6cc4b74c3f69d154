// The features of a PredictRequest as transformation columns, without copying values.
#pragma once

#include <string_view>
#include <vector>

#include "smt/v1/prediction.pb.h"
#include "transform.h"

namespace smt::server {

// Keeps what the columns of one request need beside the message itself; they point into both.
class PredictColumns {
 public:
  using Features = google::protobuf::RepeatedPtrField<v1::Feature>;

  // Call once. Throws transform::InputError for a feature without values (the oneof not set).
  void view(const Features& context, const Features& candidates, std::vector<transform::Column>& context_out,
            std::vector<transform::Column>& candidates_out);

 private:
  transform::Column column(const v1::Feature& feature);

  std::vector<std::string_view> strings_;  // of all string columns, one after the other
};

}  // namespace smt::server
