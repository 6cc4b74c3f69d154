// How a call ended.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace smt::loadgen {

// 0..16 are the gRPC status codes that the server answered with. What follows happened without an answer of the server,
// and has names of its own so that the server's counters and ours can be compared.
using Outcome = uint8_t;
inline constexpr Outcome kOk = 0;
inline constexpr Outcome kLastStatus = 16;
inline constexpr Outcome kClientDeadline = 17;   // no answer by the deadline: given up
inline constexpr Outcome kClientCancelled = 18;  // cancelled on purpose, as the plan asks
inline constexpr Outcome kConnectionLost = 19;   // the connection broke, or was closed on purpose, while under way
inline constexpr Outcome kNoConnection = 20;     // no connection was up: not sent
inline constexpr Outcome kStreamReset = 21;      // the server reset the stream without a status
inline constexpr Outcome kBadAnswer = 22;   // an answer that is not gRPC's, or OK without the message that was expected
inline constexpr Outcome kUnfinished = 23;  // still no answer when the generator stopped waiting for the last ones
inline constexpr Outcome kNotSent = 24;     // more calls were under way than the plan allows: not sent
// The deadline passed while the call waited in the client, for a stream or for bytes before it: not sent.
inline constexpr Outcome kUnsentDeadline = 25;
inline constexpr size_t kOutcomes = 26;

inline constexpr std::array<std::string_view, kOutcomes> kOutcomeNames{
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
    "client deadline",
    "client cancelled",
    "connection lost",
    "no connection",
    "stream reset",
    "bad answer",
    "unfinished",
    "not sent",
    "client deadline, not sent",
};

}  // namespace smt::loadgen
