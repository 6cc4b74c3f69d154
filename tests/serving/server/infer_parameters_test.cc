#include "infer_parameters.h"

#include <gtest/gtest.h>

#include <functional>

#include "transform.h"

namespace smt::server {
namespace {

using inference::InferParameter;
using inference::ModelInferRequest;

InferParameter& parameter(ModelInferRequest& request, const std::string& name) {
  return (*request.mutable_parameters())[name];
}

std::string refused(const std::function<void(ModelInferRequest&)>& make) {
  ModelInferRequest request;
  make(request);
  try {
    read_parameters(request);
  } catch (const transform::InputError& error) {
    return error.what();
  }
  return "";
}

TEST(InferParameters, RowsAndTimeout) {
  ModelInferRequest request;
  EXPECT_EQ(read_parameters(request).rows, std::nullopt);
  EXPECT_EQ(read_parameters(request).timeout, std::nullopt);
  parameter(request, "rows").set_int64_param(7);
  parameter(request, "timeout").set_int64_param(1500);
  EXPECT_EQ(read_parameters(request).rows, 7);
  EXPECT_EQ(read_parameters(request).timeout, std::chrono::microseconds(1500));
  parameter(request, "timeout").set_int64_param(0);
  EXPECT_EQ(read_parameters(request).timeout, std::nullopt) << "clients send 0 for none";
}

TEST(InferParameters, WhatChoosesTheVersion) {
  ModelInferRequest request;
  EXPECT_EQ(read_parameters(request).request_key, "");
  EXPECT_EQ(read_parameters(request).label, "");
  parameter(request, "request_key").set_string_param("user-7");
  parameter(request, "label").set_string_param("canary");
  EXPECT_EQ(read_parameters(request).request_key, "user-7");
  EXPECT_EQ(read_parameters(request).label, "canary");
  EXPECT_EQ(refused([](auto& r) { parameter(r, "request_key").set_int64_param(7); }),
            "parameter 'request_key': expected a string_param");
}

TEST(InferParameters, TypesAreChecked) {
  EXPECT_EQ(refused([](auto& r) { parameter(r, "rows").set_string_param("7"); }),
            "parameter 'rows': expected an int64_param");
  EXPECT_EQ(refused([](auto& r) { parameter(r, "timeout").set_double_param(7); }),
            "parameter 'timeout': expected an int64_param");
  EXPECT_EQ(refused([](auto& r) { parameter(r, "timeout").set_int64_param(-1); }),
            "parameter 'timeout': -1; expected microseconds, or 0 for none");
}

TEST(InferParameters, WhatIsNotSupportedIsRefusedByName) {
  EXPECT_EQ(refused([](auto& r) { parameter(r, "sequence_id").set_int64_param(5); }),
            "parameter 'sequence_id': sequences are not supported; every request is scored on its own");
  EXPECT_NE(refused([](auto& r) { parameter(r, "sequence_id").set_string_param("a"); }), "");
  EXPECT_NE(refused([](auto& r) { parameter(r, "sequence_start").set_bool_param(true); }), "");
  EXPECT_NE(refused([](auto& r) { parameter(r, "sequence_end").set_uint64_param(1); }), "");
  auto output = [](ModelInferRequest& request, const std::string& name) -> InferParameter& {
    request.add_outputs()->set_name("click");
    return (*request.mutable_outputs(0)->mutable_parameters())[name];
  };
  EXPECT_EQ(refused([&](auto& r) { output(r, "classification").set_int64_param(3); }),
            "outputs[0] 'click': parameter 'classification': classification is not supported; take the scores as they "
            "are");
  EXPECT_EQ(refused([&](auto& r) { output(r, "shared_memory_region").set_string_param("a"); }),
            "outputs[0] 'click': parameter 'shared_memory_region': shared memory is not supported; scores come in the "
            "response");
  EXPECT_EQ(
      refused([](auto& r) {
        r.add_inputs()->set_name("age");
        (*r.mutable_inputs(0)->mutable_parameters())["shared_memory_byte_size"].set_int64_param(64);
      }),
      "inputs[0] 'age': parameter 'shared_memory_byte_size': shared memory is not supported; send the values in the "
      "request");
}

TEST(InferParameters, WhatChangesNothingIsIgnored) {
  EXPECT_EQ(refused([](auto& r) {
              parameter(r, "sequence_id").set_int64_param(0);
              parameter(r, "sequence_start").set_bool_param(false);
              parameter(r, "sequence_end");
              r.add_inputs();
              (*r.mutable_inputs(0)->mutable_parameters())["binary_data_size"].set_int64_param(64);
              parameter(r, "priority").set_uint64_param(2);
              parameter(r, "binary_data_output").set_bool_param(true);
              parameter(r, "content_type").set_string_param("np");
              r.add_outputs()->set_name("click");
              (*r.mutable_outputs(0)->mutable_parameters())["binary_data"].set_bool_param(true);
              (*r.mutable_outputs(0)->mutable_parameters())["classification"].set_int64_param(0);
            }),
            "");
}

}  // namespace
}  // namespace smt::server
