// Sends memory over a socket from where it lies: its pages go through a pipe by reference, so the
// kernel copies nothing before the packets leave.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <memory>

namespace lockstep {

// One thread at a time.
class PagePipe {
 public:
  // Null where the system gives no pipe.
  static std::unique_ptr<PagePipe> make();
  ~PagePipe();
  PagePipe(const PagePipe&) = delete;
  PagePipe& operator=(const PagePipe&) = delete;

  // Takes up to as many bytes as fit. Returns how many, or -1 and errno where this memory or this
  // system does not allow it.
  ssize_t take(const void* data, size_t bytes);
  // Sends what was taken, all of it; waits as send() does. `more`: further bytes follow at once.
  // False and errno when the stream is broken: the pipe cannot be used any more.
  bool send(int socket, bool more);

 private:
  PagePipe(int out, int in) : out_(out), in_(in) {}

  const int out_;  // to read from
  const int in_;
  size_t held_ = 0;
};

}  // namespace lockstep
