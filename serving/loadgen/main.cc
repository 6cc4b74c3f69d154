// smt-loadgen: makes the calls of a plan and prints what came of them. `smt loadgen` writes the plan and runs it.
#include <signal.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "report.h"
#include "worker.h"

namespace {

using namespace smt::loadgen;

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Ends the run early when it has been told to.
bool interrupted(const sigset_t& signals, Nanos wait) {
  timespec timeout = to_timespec(std::max<Nanos>(0, wait));
  return sigtimedwait(&signals, nullptr, &timeout) > 0;
}

void show(std::vector<std::unique_ptr<Worker>>& workers, double at) {
  Interval interval;
  for (auto& worker : workers) worker->box().take(interval);
  std::fprintf(stderr, "%s\n", progress_line(at, interval).c_str());
}

// Sleeps through the run, shows how it goes every second, and takes the CPU time of the measured window.
Window watch(const Plan& plan, RunState& run, std::vector<std::unique_ptr<Worker>>& workers, const sigset_t& signals) {
  Nanos measured_from = run.began + plan.warm_up;
  Nanos end = run.began + plan.length();
  Nanos next_line = run.began + kSecond;
  double cpu_before = -1;
  for (Nanos now = now_ns(); now < end; now = now_ns()) {
    if (cpu_before < 0 && now >= measured_from) cpu_before = cpu_seconds();
    if (now >= next_line) {
      show(workers, static_cast<double>(now - run.began) / kSecond);
      next_line += kSecond;
      continue;
    }
    Nanos until = std::min(next_line, end);
    if (cpu_before < 0) until = std::min(until, measured_from);
    if (interrupted(signals, until - now)) {
      end = now_ns();
      run.end.store(end, std::memory_order_relaxed);
    }
  }
  double cpu = cpu_before < 0 ? 0 : cpu_seconds() - cpu_before;
  return {static_cast<double>(std::max<Nanos>(0, end - measured_from)) / kSecond, cpu};
}

int generate(const std::string& plan_file, const std::string& payload_file) {
  Payloads payloads(payload_file);
  Plan plan = parse_plan(read_file(plan_file), payloads.size());
  std::vector<Address> addresses;
  for (const std::string& target : plan.targets) addresses.push_back(resolve(target));
  TlsContext tls = make_tls(plan);
  RunState run{plan, payloads, addresses, tls.get()};
  std::vector<std::unique_ptr<Worker>> workers;
  for (int i = 0; i < plan.threads; ++i) {
    workers.push_back(std::make_unique<Worker>(run, i));
    workers.back()->connect();
  }
  // Threads inherit the mask, so only watch() takes these.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  run.began = now_ns() + kSecond / 100;
  run.end = run.began + plan.length();
  std::vector<std::jthread> threads;
  for (auto& worker : workers) threads.emplace_back([&worker] { worker->run(); });
  Window window = watch(plan, run, workers, signals);
  for (std::jthread& thread : threads) thread.join();
  WorkerStats stats;
  for (auto& worker : workers) {
    worker->close_answers();
    stats.add(worker->stats());
  }
  std::printf("%s\n", report(plan, stats, window).c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "Makes the gRPC calls of a plan and prints what came of them as one JSON object; a line of JSON on stderr every "
      "second tells how it goes. `smt loadgen` writes plans and payloads, and shows the results.\nSIGINT or SIGTERM "
      "ends the run early: what was measured until then is printed.",
      "smt-loadgen"};
  std::string plan;
  std::string payloads;
  app.add_option("--plan", plan, "The plan, JSON: see plan.h")->required()->check(CLI::ExistingFile);
  app.add_option("--payloads", payloads, "The messages to send: see payloads.h")->required()->check(CLI::ExistingFile);
  CLI11_PARSE(app, argc, argv);
  signal(SIGPIPE, SIG_IGN);  // a connection that the server has closed is told by write()
  try {
    return generate(plan, payloads);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
