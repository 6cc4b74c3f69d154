#include "json_fields.h"

#include <gtest/gtest.h>

#include "refused_by.h"

namespace smt::server {
namespace {

TEST(JsonFields, ReadsWhatFits) {
  auto json = parse_json(R"({"name":"a-b_1","n":7,"o":{"h":"00ff"},"l":[1,2]})", "f");
  Fields fields(json, "f");
  EXPECT_EQ(fields.name("name"), "a-b_1");
  EXPECT_EQ(fields.integer("n", 0, 7), 7);
  EXPECT_EQ(fields.object("o").hex("h", 4), "00ff");
  EXPECT_EQ(fields.array("l", 2).size(), 2U);
}

TEST(JsonFields, EveryErrorNamesFileFieldFindingAndExpectation) {
  auto json = parse_json(R"({"a":{"n":1.5,"neg":-1,"big":18446744073709551615,"huge":1e300,"s":5,"e":"",
                             "name":"A B","hex":"XY","list":{},"null":null,"flag":true}})",
                         "dir/m.json");
  Fields fields = Fields(json, "dir/m.json").object("a");
  auto integer = [&](const char* key) { return [&fields, key] { fields.integer(key, 0, 9); }; };
  expect_refused(Reason::kManifest, integer("n"), "dir/m.json: field 'a.n': found 1.5; expected an integer 0..9");
  expect_refused(Reason::kManifest, integer("neg"), "field 'a.neg': found -1; expected an integer 0..9");
  expect_refused(Reason::kManifest, integer("big"), "field 'a.big': found 18446744073709551615");
  expect_refused(Reason::kManifest, integer("huge"), "field 'a.huge': found 1e+300");
  expect_refused(Reason::kManifest, integer("flag"), "field 'a.flag': found true");
  expect_refused(Reason::kManifest, integer("none"), "field 'a.none': missing; expected an integer 0..9");
  expect_refused(
      Reason::kManifest, [&] { fields.text("s"); }, "field 'a.s': found 5; expected a string");
  expect_refused(
      Reason::kManifest, [&] { fields.text("e"); }, "field 'a.e': found the string ''");
  expect_refused(
      Reason::kManifest, [&] { fields.name("name"); }, "field 'a.name': found the string 'A B'; expected a name");
  expect_refused(
      Reason::kManifest, [&] { fields.hex("hex", 2); }, "field 'a.hex'", "2 lower-case hex digits");
  expect_refused(
      Reason::kManifest, [&] { fields.array("list", 3); }, "field 'a.list': found an object; expected an array");
  expect_refused(
      Reason::kManifest, [&] { fields.object("null"); }, "field 'a.null': found null; expected an object");
}

TEST(JsonFields, RefusesDocumentsThatReadersCouldTakeDifferently) {
  expect_refused(
      Reason::kManifest, [] { parse_json(R"({"a":{"b":1,"b":2}})", "f"); }, "f: key 'b' appears twice");
  EXPECT_NO_THROW(parse_json(R"({"a":{"b":1},"c":{"b":2}})", "f"));
  expect_refused(
      Reason::kManifest, [] { parse_json("{\"a\":\"\xc3\x28\"}", "f"); }, "f: not valid JSON");
  expect_refused(
      Reason::kManifest, [] { parse_json("", "f"); }, "f: not valid JSON");
  expect_refused(
      Reason::kManifest,
      [] {
        parse_json({"{}\0x", 4}, "f");
      },
      "f: not valid JSON: NUL byte at position 2");
  expect_refused(
      Reason::kManifest, [] { parse_json("{\"a\":NaN}", "f"); }, "f: not valid JSON");
}

TEST(JsonFields, ErrorsShowBytesThatAreNoTextEscaped) {
  for (const char* text : {"\xff\xfe{", "\xed\xa0\x80", "{\"a\": \"\xf5"}) {
    Refusal found = refused_by([&] { parse_json(text, "f"); });
    EXPECT_TRUE(found.refused);
    EXPECT_TRUE(found.message.starts_with("f: not valid JSON: ")) << found.message;
    EXPECT_NO_THROW(nlohmann::json(found.message).dump()) << "must be valid UTF-8";
    EXPECT_NE(found.message.find("\\x"), std::string::npos) << found.message;
  }
}

TEST(JsonFields, DeepNestingIsRefusedNotRecursedInto) {
  for (const char* open : {"[", "{\"a\":"}) {
    std::string deep;
    for (int i = 0; i < 200000; ++i) deep += open;
    expect_refused(
        Reason::kManifest, [&] { parse_json(deep, "f"); }, "nested deeper than 64 levels");
  }
}

}  // namespace
}  // namespace smt::server
