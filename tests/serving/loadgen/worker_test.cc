// Workers against a server that answers in every way there is.
#include "worker.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <string_view>

#include "fake_server.h"

namespace smt::loadgen {
namespace {

constexpr uint32_t kSize = 300'000;  // several times a stream's window and the largest frame

class WorkerTest : public testing::Test {
 protected:
  WorkerTest() {
    std::string path = testing::TempDir() + "worker-payload-" + std::to_string(getpid());
    std::string record(8 + kSize, 'x');
    uint32_t rows = 3;
    std::memcpy(record.data(), &kSize, 4);
    std::memcpy(record.data() + 4, &rows, 4);
    std::ofstream(path, std::ios::binary) << record;
    payloads_ = std::make_unique<Payloads>(path);
    std::filesystem::remove(path);
    plan_.targets = {server_.target()};
    plan_.connections = 2;
    plan_.measured = kSecond / 5;
    plan_.drain = 5 * kSecond;
    plan_.max_outstanding = 1000;
  }

  Stream& add(const std::string& path) {
    Stream& stream = plan_.streams.emplace_back();
    stream.name = path;
    stream.path = path;
    stream.payload_count = 1;
    return stream;
  }

  // Of the streams that were added since the last one.
  void add_source(Mode mode, double rate, int callers = 0) {
    uint32_t first = 0;
    for (const Source& before : plan_.sources) first += before.stream_count;
    Source& source = plan_.sources.emplace_back();
    source.mode = mode;
    source.rate = rate;
    source.callers = callers;
    source.first_stream = first;
    source.stream_count = static_cast<uint32_t>(plan_.streams.size()) - first;
  }

  // Calls one path 20 times at even gaps, and returns what came of it.
  std::map<std::string_view, uint64_t> twenty(const std::string& path) {
    if (plan_.streams.empty()) add(path);
    add_source(Mode::kFixed, 100);
    run();
    return totals();
  }

  void run() { run(server_); }
  void run(FakeServer& server) {
    std::vector<Address> addresses{resolve(server.target())};
    RunState run{plan_, *payloads_, addresses, nullptr};
    Worker worker(run, 0);
    worker.connect();
    run.began = now_ns();
    run.end = run.began + plan_.length();
    worker.run();
    stats_.add(worker.stats());
    server.stop();
  }

  std::map<std::string_view, uint64_t> totals(size_t stream = 0) {
    std::map<std::string_view, uint64_t> found;
    for (size_t i = 0; i < kOutcomes; ++i) {
      if (stats_.streams[stream].total[i] > 0) found[kOutcomeNames[i]] = stats_.streams[stream].total[i];
    }
    return found;
  }

  FakeServer server_;
  Plan plan_;
  std::unique_ptr<Payloads> payloads_;
  WorkerStats stats_;
};

using Totals = std::map<std::string_view, uint64_t>;

TEST_F(WorkerTest, AnswersOfOneMessageAreOk) {
  EXPECT_EQ(twenty("/ok"), (Totals{{"OK", 20}}));
  EXPECT_EQ(server_.requests().at("/ok"), 20);
  EXPECT_EQ(server_.message_bytes(), 20 * (kSize + 5U)) << "every payload arrives whole";
  const StreamStats& stream = stats_.streams[0];
  EXPECT_EQ(stream.ok_rows, 60U);
  EXPECT_EQ(stream.response_bytes, 80U);
  EXPECT_EQ(stream.latency[kOk]->count(), 20U);
  EXPECT_EQ(stats_.lag[0].count(), 20U);
  EXPECT_GT(stats_.bytes_out, 20 * kSize);
}

TEST_F(WorkerTest, AMessageMayComeInPieces) { EXPECT_EQ(twenty("/split"), (Totals{{"OK", 20}})); }

TEST_F(WorkerTest, StatusInHeadersAlone) { EXPECT_EQ(twenty("/status"), (Totals{{"NOT_FOUND", 20}})); }

TEST_F(WorkerTest, AnAnswerMayComeBeforeTheRequestIsWhole) {
  EXPECT_EQ(twenty("/early"), (Totals{{"RESOURCE_EXHAUSTED", 20}}));
  EXPECT_LT(server_.message_bytes(), 20 * kSize) << "the rest of the request is not sent";
  EXPECT_EQ(server_.resets(), 20);
}

TEST_F(WorkerTest, WhatTheServerHasResetIsNotResetAgain) {
  EXPECT_EQ(twenty("/early-end"), (Totals{{"RESOURCE_EXHAUSTED", 20}}));
  EXPECT_LT(server_.message_bytes(), 20 * kSize);
  EXPECT_EQ(server_.resets(), 0);
}

TEST_F(WorkerTest, WhatIsNoAnswerOfGrpcIsABadOne) {
  for (const char* path : {"/empty", "/short", "/no-status", "/http"}) add(path);
  add_source(Mode::kFixed, 400);
  run();
  uint64_t all = 0;
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(totals(i).size(), 1U) << plan_.streams[i].path;
    all += totals(i)["bad answer"];
  }
  EXPECT_EQ(all, 80U);
}

TEST_F(WorkerTest, ShorterMessagesThanThePlanWantsAreBad) {
  add("/ok").min_response_bytes = 5;
  EXPECT_EQ(twenty("/ok"), (Totals{{"bad answer", 20}}));
}

TEST_F(WorkerTest, EmptyMessagesAreGoodIfThePlanSaysSo) {
  add("/ok").min_response_bytes = 4;
  EXPECT_EQ(twenty("/ok"), (Totals{{"OK", 20}}));
}

TEST_F(WorkerTest, ResetStreams) { EXPECT_EQ(twenty("/reset"), (Totals{{"stream reset", 20}})); }

TEST_F(WorkerTest, ARefusedCallIsSentAgain) {
  EXPECT_EQ(twenty("/refuse"), (Totals{{"OK", 20}}));
  EXPECT_EQ(stats_.retried, 1U);
}

TEST_F(WorkerTest, CallsThatAnEndingConnectionLeavesOutAreSentOnAnother) {
  EXPECT_EQ(twenty("/goaway"), (Totals{{"OK", 20}}));
  EXPECT_EQ(stats_.retried, 1U);
  EXPECT_EQ(stats_.connections_ended, 3U);
}

TEST_F(WorkerTest, BrokenConnectionsAreOpenedAgain) {
  plan_.connections = 1;
  plan_.measured = kSecond;
  add("/hang-up");
  add_source(Mode::kFixed, 5);
  run();
  // On a slow machine the next connection may not be up in time.
  EXPECT_GE(totals()["connection lost"], 2U);
  EXPECT_EQ(totals()["connection lost"] + totals()["no connection"], 5U);
  EXPECT_GE(stats_.connections_ended, totals()["connection lost"]);
}

TEST_F(WorkerTest, CallersCallAgainOnlyAfterTheirAnswer) {
  add("/silent");
  add_source(Mode::kClosed, 0, 3);
  plan_.drain = kSecond / 10;
  run();
  EXPECT_EQ(totals(), (Totals{{"unfinished", 3}}));
  EXPECT_EQ(stats_.streams[0].latency[kUnfinished], nullptr) << "not measured: it did not end in the window";
}

TEST_F(WorkerTest, SilenceEndsAtTheDeadlineOrByCancelling) {
  Stream& late = add("/silent");
  late.timeouts = {{kSecond / 50, 1}};
  Stream& cancelled = add("/silent");
  cancelled.cancel_fraction = 1;
  cancelled.cancel_from = cancelled.cancel_to = kSecond / 50;
  add_source(Mode::kFixed, 400);
  run();
  EXPECT_EQ(totals(0).size(), 1U);
  EXPECT_EQ(totals(1).size(), 1U);
  EXPECT_EQ(totals(0)["client deadline"] + totals(1)["client cancelled"], 80U);
  EXPECT_GE(stats_.streams[0].latency[kClientDeadline]->min(), kSecond / 50);
  EXPECT_GE(stats_.streams[1].latency[kClientCancelled]->min(), kSecond / 50);
}

TEST_F(WorkerTest, TheServerIsToldWhatIsLeftOfADeadline) {
  FakeServer one_at_a_time(1);
  plan_.connections = 1;
  add("/silent").timeouts = {{kSecond / 10, 1}};
  add_source(Mode::kFixed, 5);  // one call, which keeps the only stream for a tenth of a second
  add("/ok").timeouts = {{10 * kSecond, 1}};
  add_source(Mode::kFixed, 100);
  run(one_at_a_time);
  EXPECT_EQ(totals(1), (Totals{{"OK", 20}}));
  const std::vector<int64_t>& told = one_at_a_time.timeouts_us().at("/ok");
  ASSERT_EQ(told.size(), 20U);
  EXPECT_LE(told.front(), 9'900'000);
  EXPECT_GT(told.front(), 0);
  const StreamStats& stream = stats_.streams[1];
  ASSERT_EQ(stream.since_sent[kOk]->count(), 20U);
  EXPECT_LE(stream.since_sent[kOk]->sum() + kSecond / 10, stream.latency[kOk]->sum());
}

TEST_F(WorkerTest, CallsWhoseDeadlinePassesInTheClientAreNotSent) {
  FakeServer one_at_a_time(1);
  plan_.connections = 1;
  plan_.drain = kSecond / 2;
  add("/silent");
  add_source(Mode::kClosed, 0, 1);  // gets the stream after one call of the others, and keeps it
  Stream& starved = add("/ok");
  starved.timeouts = {{kSecond / 5, 1}};
  starved.linger = kSecond;
  add_source(Mode::kFixed, 100);
  run(one_at_a_time);
  EXPECT_EQ(totals(0), (Totals{{"unfinished", 1}}));
  const uint64_t answered = totals(1)["OK"];  // none if the machine stood still at the beginning
  EXPECT_LE(answered, 1U);
  EXPECT_EQ(totals(1)["client deadline, not sent"], 20 - answered);
  const StreamStats& stream = stats_.streams[1];
  EXPECT_GE(stream.latency[kUnsentDeadline]->min(), kSecond / 5);
  EXPECT_EQ(stream.since_sent[kUnsentDeadline], nullptr);
  EXPECT_EQ(stream.request_bytes, answered * (*payloads_)[0].size);
}

TEST_F(WorkerTest, AnswersAfterTheDeadlineAreLate) {
  Stream& stream = add("/late");
  stream.timeouts = {{kSecond / 50, 1}};
  stream.linger = 5 * kSecond;
  plan_.measured = kSecond / 20;
  add_source(Mode::kFixed, 100);
  run();
  // On a slow machine a call may miss its deadline before it is sent.
  const uint64_t unsent = totals()["client deadline, not sent"];
  EXPECT_EQ(totals()["OK"] + unsent, 5U);
  EXPECT_EQ(stats_.streams[0].late_ok, 5U - unsent);
  EXPECT_TRUE(unsent == 5 || stats_.streams[0].latest_ok > 0);
}

TEST_F(WorkerTest, MoreCallsThanAllowedAreNotSent) {
  plan_.max_outstanding = 7;
  plan_.drain = kSecond / 10;
  EXPECT_EQ(twenty("/silent"), (Totals{{"unfinished", 7}, {"not sent", 13}}));
}

TEST_F(WorkerTest, ConnectionsBreakOnPurpose) {
  plan_.disconnects = 100;
  plan_.measured = kSecond / 2;
  add("/ok");
  add_source(Mode::kClosed, 0, 4);
  run();
  EXPECT_GT(stats_.connections_broken, 2U);
  EXPECT_GT(totals()["OK"], 2U);
  for (const auto& [outcome, count] : totals()) {
    EXPECT_TRUE(outcome == "OK" || outcome == "connection lost" || outcome == "no connection") << outcome << count;
  }
}

TEST_F(WorkerTest, NobodyThere) {
  std::string target = server_.target();
  server_.stop();
  std::vector<Address> addresses{resolve(target)};
  add("/ok");
  add_source(Mode::kClosed, 0, 1);
  RunState run{plan_, *payloads_, addresses, nullptr};
  Worker worker(run, 0);
  try {
    worker.connect();
    FAIL() << "connected";
  } catch (const std::runtime_error& error) {
    EXPECT_EQ(std::string(error.what()), "cannot connect to " + target + ": Connection refused");
  }
}

}  // namespace
}  // namespace smt::loadgen
