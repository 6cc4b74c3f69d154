// Reading a socket, and knowing when what was read had arrived.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>

#include <chrono>
#include <cstddef>
#include <cstring>

namespace smt::net {

// Beyond it is not the time that bytes waited, but a clock that was set meanwhile.
inline constexpr std::chrono::seconds kLongestWait{60};

// Has the kernel note when bytes arrive on the socket.
inline void note_arrivals(int fd) {
  int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
}

// recv(). `waited` becomes how long the last of the bytes had been there; 0 where the kernel did not note it.
inline ssize_t timed_read(int fd, char* into, size_t size, std::chrono::nanoseconds& waited) {
  iovec part{into, size};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(timespec))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t result = ::recvmsg(fd, &message, 0);
  waited = {};
  if (result <= 0) return result;
  const cmsghdr* head = CMSG_FIRSTHDR(&message);
  if (head == nullptr || head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_TIMESTAMPNS) return result;
  timespec arrived{};
  std::memcpy(&arrived, CMSG_DATA(head), sizeof arrived);
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);  // as the kernel's
  const std::chrono::nanoseconds since =
      std::chrono::seconds(now.tv_sec - arrived.tv_sec) + std::chrono::nanoseconds(now.tv_nsec - arrived.tv_nsec);
  if (since.count() > 0 && since < kLongestWait) waited = since;
  return result;
}

}  // namespace smt::net
