#include "batch_runner.h"

#include <algorithm>
#include <exception>
#include <new>

#include "program.h"

namespace smt::server {
namespace {

using Clock = Work::Clock;

double seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }
int64_t nanoseconds(Clock::duration duration) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
}

int32_t slot(const Part& part) { return part.work->snapshot->weights.index(); }

int64_t total_rows(std::span<const Part> parts) {
  int64_t rows = 0;
  for (const Part& part : parts) rows += part.rows;
  return rows;
}

}  // namespace

void BatchRunner::transform(std::span<const Part> parts) {
  batch_.clear();
  block_slot_.clear();
  first_row_.clear();
  for (size_t i = 0; i < parts.size(); ++i) {
    const Part& part = parts[i];
    const LoadedSnapshot& snapshot = *part.work->snapshot;
    if (i > 0 && slot(part) != slot(parts[i - 1])) batch_.pad(-batch_.rows & (cpu::kRowBlock - 1));
    first_row_.push_back(batch_.rows);
    size_t first_id = batch_.ids.size();
    snapshot.features.append(part.work->columns, part.first, part.rows, batch_);
    snapshot.resolve(std::span(batch_.ids).subspan(first_id));
    block_slot_.resize(static_cast<size_t>((batch_.rows + cpu::kRowBlock - 1) / cpu::kRowBlock), slot(part));
  }
}

void BatchRunner::compute(std::span<const Part> parts) {
  parts.front().work->snapshot->binary->run(block_slot_, batch_, scores_);
}

void BatchRunner::scatter(std::span<const Part> parts) const {
  auto heads = static_cast<int64_t>(parts.front().work->snapshot->binary->manifest().tasks);
  for (size_t i = 0; i < parts.size(); ++i) {
    const float* from = scores_.data() + first_row_[i] * heads;
    std::copy_n(from, parts[i].rows * heads, parts[i].work->scores.data() + parts[i].first * heads);
  }
}

std::vector<Part> BatchRunner::give_up_expired(std::span<const Part> parts, Clock::time_point now) {
  std::vector<Part> live;
  for (const Part& part : parts) {
    if (now < part.work->deadline)
      live.push_back(part);
    else
      part.work->give_up(Drop::kExpired);
  }
  return live;
}

void BatchRunner::attempt(std::span<const Part> parts, Timing& timing) {
  if (parts.empty()) return;
  Clock::time_point begin = Clock::now();
  transform(parts);
  Clock::time_point transformed = Clock::now();
  auto expired = [&](const Part& part) { return transformed >= part.work->deadline; };
  if (std::any_of(parts.begin(), parts.end(), expired)) return attempt(give_up_expired(parts, transformed), timing);
  Clock::time_point began = Clock::now();
  for (const Part& part : parts) timing.expired_rows += began >= part.work->deadline ? part.rows : 0;
  compute(parts);
  Clock::time_point computed = Clock::now();
  scatter(parts);
  timing.rows += batch_.rows;
  timing.padding += batch_.rows - total_rows(parts);
  timing.transform_seconds += seconds(transformed - begin);
  timing.compute_seconds += seconds(computed - transformed);
  for (const Part& part : parts) {
    part.work->transform_ns_.fetch_add(nanoseconds(transformed - begin), std::memory_order_relaxed);
    part.work->compute_ns_.fetch_add(nanoseconds(computed - transformed), std::memory_order_relaxed);
  }
}

BatchRunner::Timing BatchRunner::run(std::span<const Part> parts) noexcept {
  Timing timing;
  try {
    attempt(parts, timing);
    return timing;
  } catch (...) {
    if (parts.size() > 1) {
      for (size_t i = 0; i < parts.size(); ++i) {
        Timing alone = run(parts.subspan(i, 1));
        timing.rows += alone.rows;
        timing.expired_rows += alone.expired_rows;
        timing.transform_seconds += alone.transform_seconds;
        timing.compute_seconds += alone.compute_seconds;
      }
      return timing;
    }
    Work& work = *parts.front().work;
    try {
      throw;
    } catch (const std::bad_alloc&) {
      work.give_up(Drop::kNoMemory);
    } catch (const std::exception& error) {
      if (work.give_up(Drop::kFailed)) work.error_ = error.what();
    } catch (...) {
      if (work.give_up(Drop::kFailed)) work.error_ = "an exception of unknown type";
    }
    return timing;
  }
}

}  // namespace smt::server
