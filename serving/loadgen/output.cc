#include "output.h"

#include <array>

namespace smt::loadgen {

void Output::copy(const char* data, size_t size) {
  if (parts_.empty() || parts_.back().data != nullptr) parts_.push_back({nullptr, copied_.size(), 0});
  copied_.append(data, size);
  parts_.back().size += size;
  pending_ += size;
}

void Output::refer(const char* data, size_t size) {
  if (size == 0) return;
  parts_.push_back({data, 0, size});
  pending_ += size;
}

ssize_t Output::flush(Transport& transport) {
  while (first_ < parts_.size()) {
    std::array<iovec, 64> vector;
    int count = 0;
    for (size_t i = first_; i < parts_.size() && count < static_cast<int>(vector.size()); ++i, ++count) {
      const Part& part = parts_[i];
      const char* data = part.data != nullptr ? part.data : copied_.data() + part.offset;
      vector[static_cast<size_t>(count)] = {const_cast<char*>(data), part.size};
    }
    ssize_t written = transport.write(vector.data(), count);
    if (written <= 0) return written;
    pending_ -= static_cast<size_t>(written);
    for (auto left = static_cast<size_t>(written); left > 0;) {
      Part& part = parts_[first_];
      if (left < part.size) {
        part.data != nullptr ? part.data += left : part.data;
        part.offset += left;
        part.size -= left;
        break;
      }
      left -= part.size;
      ++first_;
    }
  }
  parts_.clear();
  copied_.clear();
  first_ = 0;
  return 1;
}

}  // namespace smt::loadgen
