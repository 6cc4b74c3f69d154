#include "answers.h"

#include <array>
#include <bit>
#include <stdexcept>
#include <utility>

namespace smt::loadgen {

static_assert(std::endian::native == std::endian::little, "the file is written as it lies");

AnswerFile::AnswerFile(std::filesystem::path path) : path_(std::move(path)), file_(path_, std::ios::binary) { check(); }

void AnswerFile::write(uint32_t stream, uint32_t payload, std::string_view message) {
  const std::array<uint32_t, 3> head{stream, payload, static_cast<uint32_t>(message.size())};
  file_.write(reinterpret_cast<const char*>(head.data()), sizeof head);
  file_.write(message.data(), static_cast<std::streamsize>(message.size()));
}

void AnswerFile::close() {
  file_.close();
  check();
}

void AnswerFile::check() {
  if (!file_) throw std::runtime_error(path_.string() + ": cannot be written");
}

}  // namespace smt::loadgen
