#include "predict_columns.h"

#include "names.h"

namespace smt::server {
namespace {

static_assert(sizeof(google::protobuf::int64) == sizeof(int64_t));

size_t string_count(const PredictColumns::Features& features) {
  size_t count = 0;
  for (const v1::Feature& feature : features) {
    if (feature.has_strings()) count += static_cast<size_t>(feature.strings().values_size());
  }
  return count;
}

template <typename T>
std::span<const T> span_of(const google::protobuf::RepeatedField<T>& field) {
  return {field.data(), static_cast<size_t>(field.size())};
}

}  // namespace

void PredictColumns::view(const Features& context, const Features& candidates,
                          std::vector<transform::Column>& context_out, std::vector<transform::Column>& candidates_out) {
  // All at once: spans into strings_ must survive the ones that follow.
  strings_.reserve(string_count(context) + string_count(candidates));
  context_out.reserve(static_cast<size_t>(context.size()));
  candidates_out.reserve(static_cast<size_t>(candidates.size()));
  for (const v1::Feature& feature : context) context_out.push_back(column(feature));
  for (const v1::Feature& feature : candidates) candidates_out.push_back(column(feature));
}

transform::Column PredictColumns::column(const v1::Feature& feature) {
  transform::Column column{.name = feature.name(), .values = {}, .lengths = span_of(feature.lengths())};
  switch (feature.values_case()) {
    case v1::Feature::kFloats:
      column.values = span_of(feature.floats().values());
      break;
    case v1::Feature::kDoubles:
      column.values = span_of(feature.doubles().values());
      break;
    case v1::Feature::kInts:
      column.values = span_of(feature.ints().values());
      break;
    case v1::Feature::kStrings: {
      size_t first = strings_.size();
      for (const std::string& value : feature.strings().values()) strings_.emplace_back(value);
      column.values = transform::StringValues(strings_).subspan(first);
      break;
    }
    case v1::Feature::VALUES_NOT_SET:
      throw transform::InputError("feature " + quote(feature.name()) +
                                  ": no values set; expected one of floats, doubles, ints or strings");
  }
  return column;
}

}  // namespace smt::server
