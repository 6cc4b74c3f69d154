#include "lifecycle.h"

#include <gtest/gtest.h>

#include <set>
#include <stdexcept>

namespace smt::server {
namespace {

using enum VersionState;
using Steps = std::set<std::pair<VersionState, VersionState>>;

// The specification, apart from the table of the code.
TEST(VersionState, TheseStepsArePossibleAndNoOthers) {
  const Steps legal{{kDiscovered, kVerifying}, {kVerifying, kLoading}, {kVerifying, kRefused}, {kVerifying, kUnloaded},
                    {kLoading, kWarm},         {kLoading, kRefused},   {kLoading, kUnloaded},  {kWarm, kServing},
                    {kWarm, kDraining},        {kServing, kWarm},      {kServing, kDraining},  {kDraining, kUnloaded},
                    {kDraining, kRefused}};
  Steps possible;
  for (VersionState from : kAllVersionStates) {
    for (VersionState to : kAllVersionStates) {
      if (may_become(from, to)) possible.emplace(from, to);
    }
  }
  EXPECT_EQ(possible, legal);
}

TEST(VersionState, NamesAreDistinct) {
  std::set<std::string_view> names;
  for (VersionState state : kAllVersionStates) names.insert(version_state_name(state));
  EXPECT_EQ(names.size(), kAllVersionStates.size());
}

// Brings a new version into `state` by legal steps.
Lifecycle::Id version_in(Lifecycle& ledger, VersionState state, const std::string& name = "v1") {
  Lifecycle::Id id = ledger.discover("a", name);
  if (state == kDiscovered) return id;
  ledger.move(id, kVerifying);
  if (state == kVerifying) return id;
  if (state == kRefused) {
    ledger.move(id, kRefused, "damaged");
    return id;
  }
  ledger.move(id, kLoading);
  if (state == kLoading) return id;
  ledger.move(id, kWarm);
  if (state == kWarm) return id;
  ledger.move(id, kServing);
  if (state == kServing) return id;
  ledger.drain(id);
  if (state == kDraining) return id;
  ledger.freed(id);
  return id;
}

TEST(Lifecycle, RefusesEveryOtherStepAndStaysAsItWas) {
  for (VersionState from : kAllVersionStates) {
    for (VersionState to : kAllVersionStates) {
      int steps = 0;
      Lifecycle ledger([&](const Lifecycle::Step&) { ++steps; });
      Lifecycle::Id id = version_in(ledger, from);
      ASSERT_EQ(ledger.state(id), from);
      const int before = steps;
      if (may_become(from, to)) {
        ledger.move(id, to);
        EXPECT_EQ(ledger.state(id), to);
        EXPECT_EQ(steps, before + 1);
      } else {
        EXPECT_THROW(ledger.move(id, to), std::logic_error)
            << version_state_name(from) << " to " << version_state_name(to);
        EXPECT_EQ(ledger.state(id), from);
        EXPECT_EQ(steps, before) << "nobody is told of a step that was not made";
      }
    }
  }
  Lifecycle ledger;
  EXPECT_THROW(ledger.move(7, kVerifying), std::logic_error);
}

TEST(Lifecycle, DrainingEndsRefusedWhenSomethingWasWrong) {
  Lifecycle ledger;
  Lifecycle::Id good = version_in(ledger, kServing, "good");
  Lifecycle::Id bad = version_in(ledger, kServing, "bad");
  ledger.drain(good);
  ledger.drain(bad, "its errors\xff");
  ledger.freed(bad);
  ledger.freed(good);
  auto versions = ledger.of("a");
  ASSERT_EQ(versions.size(), 2U);
  EXPECT_EQ(versions[0].state, kUnloaded);
  EXPECT_EQ(versions[0].reason, "");
  EXPECT_EQ(versions[1].state, kRefused);
  EXPECT_EQ(versions[1].reason, "its errors\\xff") << "text, whatever it is made of";
}

TEST(Lifecycle, CountsTheBytesOfWhatIsResident) {
  Lifecycle ledger;
  Lifecycle::Id served = version_in(ledger, kServing, "v1");
  ledger.set_bytes(served, {.own = 100, .shared = {}});
  Lifecycle::Id loading = version_in(ledger, kLoading, "v2");
  ledger.set_bytes(loading, {.own = 30, .shared = {}});
  EXPECT_EQ(ledger.resident_bytes(), 130);
  ledger.drain(served);
  EXPECT_EQ(ledger.resident_bytes(), 130) << "requests hold it";
  ledger.freed(served);
  EXPECT_EQ(ledger.resident_bytes(), 30);
  ledger.move(loading, kRefused, "damaged");
  EXPECT_EQ(ledger.resident_bytes(), 0);
}

TEST(Lifecycle, WhatSeveralVersionsHoldIsCountedOnce) {
  Lifecycle ledger;
  const int table = 0;
  const int rows = 0;
  Lifecycle::Id base = version_in(ledger, kServing, "v1");
  ledger.set_bytes(base, {.own = 5, .shared = {{&table, 1000}}});
  Lifecycle::Id delta = version_in(ledger, kServing, "v2");
  ledger.set_bytes(delta, {.own = 7, .shared = {{&table, 1000}, {&rows, 40}}});
  EXPECT_EQ(ledger.resident_bytes(), 5 + 7 + 1000 + 40);
  EXPECT_EQ(ledger.of("a")[1].bytes, 1047) << "all that it reads";
  ledger.drain(base);
  ledger.freed(base);
  EXPECT_EQ(ledger.resident_bytes(), 7 + 1000 + 40) << "the other one holds the table still";
  ledger.drain(delta);
  ledger.freed(delta);
  EXPECT_EQ(ledger.resident_bytes(), 0);
}

TEST(Lifecycle, ALabelLastsAsLongAsTheVersionServes) {
  Lifecycle ledger;
  Lifecycle::Id id = version_in(ledger, kWarm);
  ledger.set_label(id, "canary");
  ledger.move(id, kServing);
  EXPECT_EQ(ledger.of("a").front().label, "canary");
  ledger.move(id, kWarm);
  EXPECT_EQ(ledger.of("a").front().label, "");
}

TEST(Lifecycle, ForgetsWhatEndedLongAgoAndNothingElse) {
  Lifecycle ledger;
  version_in(ledger, kServing, "served");
  for (int i = 0; i < 10; ++i) version_in(ledger, i % 2 == 0 ? kUnloaded : kRefused, "old" + std::to_string(i));
  version_in(ledger, kDraining, "held");
  ledger.discover("b", "other");
  std::vector<std::string> names;
  for (const VersionStatus& version : ledger.of("a")) names.push_back(version.version);
  EXPECT_EQ(names, (std::vector<std::string>{"served", "old7", "old8", "old9", "held"}));
  ledger.discover("a", "old8");
  EXPECT_EQ(ledger.of("a").size(), 5U) << "its new life takes the place of the old one";
  EXPECT_EQ(ledger.all().at("b").size(), 1U);
}

}  // namespace
}  // namespace smt::server
