#include "infer_parameters.h"

#include <string>
#include <string_view>

#include "names.h"
#include "transform.h"

namespace smt::server {
namespace {

using inference::InferParameter;

[[noreturn]] void fail(const std::string& where, const std::string& what) {
  throw transform::InputError(where + ": " + what);
}

std::string place(std::string_view name) { return "parameter " + quote(name); }

int64_t integer(const std::string& name, const InferParameter& value) {
  if (value.parameter_choice_case() == InferParameter::kInt64Param) return value.int64_param();
  fail(place(name), "expected an int64_param");
}

std::string_view text(const std::string& name, const InferParameter& value) {
  if (value.parameter_choice_case() == InferParameter::kStringParam) return value.string_param();
  fail(place(name), "expected a string_param");
}

// Whether it says no more than its absence would.
bool is_empty(const InferParameter& value) {
  switch (value.parameter_choice_case()) {
    case InferParameter::kBoolParam:
      return !value.bool_param();
    case InferParameter::kInt64Param:
      return value.int64_param() == 0;
    case InferParameter::kStringParam:
      return value.string_param().empty();
    case InferParameter::kDoubleParam:
      return value.double_param() == 0;
    case InferParameter::kUint64Param:
      return value.uint64_param() == 0;
    case InferParameter::PARAMETER_CHOICE_NOT_SET:
      return true;
  }
  return false;
}

constexpr std::string_view kSharedMemory = "shared_memory_";

void check_input(const inference::ModelInferRequest::InferInputTensor& input, int index) {
  for (const auto& [name, value] : input.parameters()) {
    if (!name.starts_with(kSharedMemory)) continue;
    fail("inputs[" + std::to_string(index) + "] " + quote(input.name()) + ": " + place(name),
         "shared memory is not supported; send the values in the request");
  }
}

void check_output(const inference::ModelInferRequest::InferRequestedOutputTensor& output, int index) {
  for (const auto& [name, value] : output.parameters()) {
    std::string where = "outputs[" + std::to_string(index) + "] " + quote(output.name()) + ": " + place(name);
    if (name == "classification" && !is_empty(value)) {
      fail(where, "classification is not supported; take the scores as they are");
    }
    if (name.starts_with(kSharedMemory)) fail(where, "shared memory is not supported; scores come in the response");
  }
}

}  // namespace

InferParameters read_parameters(const inference::ModelInferRequest& request) {
  InferParameters out;
  for (const auto& [name, value] : request.parameters()) {
    if (name == "rows") {
      out.rows = integer(name, value);
    } else if (name == "timeout") {
      const int64_t timeout = integer(name, value);
      if (timeout < 0) fail(place(name), std::to_string(timeout) + "; expected microseconds, or 0 for none");
      if (timeout > 0) out.timeout = std::chrono::microseconds(timeout);
    } else if (name == "request_key") {
      out.request_key = text(name, value);
    } else if (name == "label") {
      out.label = text(name, value);
    } else if (name.starts_with("sequence_") && !is_empty(value)) {
      fail(place(name), "sequences are not supported; every request is scored on its own");
    }
  }
  for (int i = 0; i < request.inputs_size(); ++i) check_input(request.inputs(i), i);
  for (int i = 0; i < request.outputs_size(); ++i) check_output(request.outputs(i), i);
  return out;
}

}  // namespace smt::server
