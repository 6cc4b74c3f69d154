// What a call was refused with.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "refusal.h"

namespace smt::server {

struct Refusal {
  bool refused = false;
  Reason reason = Reason::kIo;
  std::string message;
};

template <typename Call>
Refusal refused_by(Call&& call) {
  try {
    call();
  } catch (const Refused& error) {
    return {true, error.reason(), error.what()};
  }
  return {};
}

// The call throws Refused of this reason, and the message holds each of these texts.
template <typename Call, typename... Texts>
void expect_refused(Reason reason, Call&& call, Texts... texts) {
  Refusal found = refused_by(std::forward<Call>(call));
  ASSERT_TRUE(found.refused) << "nothing was refused";
  EXPECT_EQ(reason_name(found.reason), reason_name(reason)) << found.message;
  for (const std::string& text : {std::string(texts)...}) {
    EXPECT_NE(found.message.find(text), std::string::npos) << "'" << text << "' is not in: " << found.message;
  }
}

}  // namespace smt::server
