#include "transform.h"

#include <utility>

#include "model.h"

namespace smt::transform {

struct FeatureSpec::Impl {
  Model model;
  std::vector<InputInfo> inputs;
};

std::string_view type_name(InputType type) {
  switch (type) {
    case InputType::kNumber:
      return "number";
    case InputType::kInt:
      return "int";
    case InputType::kString:
      return "string";
  }
  return "";
}

FeatureSpec FeatureSpec::parse(std::string_view json) {
  auto impl = std::make_unique<Impl>();
  impl->model = parse_model(json);
  for (const Input& input : impl->model.inputs) {
    impl->inputs.push_back({input.name, std::string(type_name(input.type)), input.required, input.multi_valued});
  }
  return FeatureSpec(std::move(impl));
}

FeatureSpec::FeatureSpec(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
FeatureSpec::FeatureSpec(FeatureSpec&&) noexcept = default;
FeatureSpec& FeatureSpec::operator=(FeatureSpec&&) noexcept = default;
FeatureSpec::~FeatureSpec() = default;

int64_t FeatureSpec::dense_slots() const { return impl_->model.dense_slots; }
int64_t FeatureSpec::categorical_slots() const { return impl_->model.categorical_slots; }
int64_t FeatureSpec::table_rows() const { return impl_->model.table_rows; }
std::span<const InputInfo> FeatureSpec::inputs() const { return impl_->inputs; }

bool FeatureSpec::reads(std::string_view input) const { return impl_->model.input_positions.find(input) >= 0; }

void FeatureSpec::check(int64_t rows, std::span<const Column> context, std::span<const Column> candidates,
                        const Limits& limits, CheckedColumns& out) const {
  bind(impl_->model, rows, context, candidates, limits, out);
}

void FeatureSpec::append(const CheckedColumns& checked, int64_t first, int64_t count, Batch& out,
                         bool local_ids) const {
  append_rows(impl_->model, checked, first, count, local_ids, out);
}

void FeatureSpec::apply(int64_t rows, std::span<const Column> context, std::span<const Column> candidates,
                        const Limits& limits, Batch& out, bool local_ids) const {
  CheckedColumns checked;
  check(rows, context, candidates, limits, checked);
  out.clear();
  append(checked, 0, rows, out, local_ids);
}

}  // namespace smt::transform
