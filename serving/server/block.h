// What one worker computes in one call.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "program.h"
#include "work.h"

namespace smt::server {

// Rows of which so many are useful, as the kernels compute them.
inline int64_t padded(int64_t rows) { return (rows + cpu::kRowBlock - 1) / cpu::kRowBlock * cpu::kRowBlock; }

// What is gathered for one worker. Rows of one snapshot lie side by side; where another one's begin, a block of the
// kernels begins as well, so each but the last snapshot's rows are padded.
struct Block {
  struct Segment {
    const LoadedSnapshot* snapshot;
    int64_t rows;
    int64_t slack() const { return padded(rows) - rows; }
  };
  std::vector<Part> parts;
  std::vector<Segment> segments;  // rows per snapshot

  void clear() {
    parts.clear();
    segments.clear();
  }
  const Segment* segment(const Work* work) const {
    auto same = [&](const Segment& each) { return each.snapshot == work->snapshot.get(); };
    auto found = std::find_if(segments.begin(), segments.end(), same);
    return found == segments.end() ? nullptr : &*found;
  }
  // Rows that a block of `limit` rows has left for this work.
  int64_t room(int64_t limit, const Work* work) const {
    for (const Segment& each : segments) {
      limit -= each.snapshot == work->snapshot.get() ? each.rows : padded(each.rows);
    }
    return limit;
  }
  int64_t rows() const {
    return std::accumulate(segments.begin(), segments.end(), int64_t{0},
                           [](int64_t sum, const Segment& each) { return sum + each.rows; });
  }
  // Rows of padding with one more snapshot's `rows`.
  int64_t padding_with(int64_t rows) const {
    int64_t last = padded(rows) - rows;  // the most that is saved by being last
    int64_t sum = last;
    for (const Segment& each : segments) {
      sum += each.slack();
      last = std::max(last, each.slack());
    }
    return sum - last;
  }
  void add(Part part) {
    parts.push_back(part);
    if (const Segment* known = segment(part.work)) {
      segments[static_cast<size_t>(known - segments.data())].rows += part.rows;
    } else {
      segments.push_back({part.work->snapshot.get(), part.rows});
    }
  }
  // Parts by snapshot, the one that would need most padding last.
  void arrange() {
    if (segments.size() < 2) return;
    auto less = [](const Segment& a, const Segment& b) { return a.slack() < b.slack(); };
    std::iter_swap(std::max_element(segments.begin(), segments.end(), less), segments.end() - 1);
    std::stable_sort(parts.begin(), parts.end(),
                     [&](const Part& a, const Part& b) { return segment(a.work) < segment(b.work); });
  }
};

}  // namespace smt::server
