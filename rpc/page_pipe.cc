#include "rpc/page_pipe.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

namespace lockstep {
namespace {

constexpr int kPipeBytes = 512 << 10;

}  // namespace

std::unique_ptr<PagePipe> PagePipe::make() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return nullptr;
  // Where a user has too many pipes for this it stays smaller, and takes more calls.
  static_cast<void>(fcntl(ends[1], F_SETPIPE_SZ, kPipeBytes));
  return std::unique_ptr<PagePipe>(new PagePipe(ends[0], ends[1]));
}

PagePipe::~PagePipe() {
  ::close(in_);
  ::close(out_);
}

ssize_t PagePipe::take(const void* data, size_t bytes) {
  const iovec part{const_cast<void*>(data), bytes};
  while (true) {
    const ssize_t taken = vmsplice(in_, &part, 1, SPLICE_F_NONBLOCK);
    if (taken >= 0) held_ += static_cast<size_t>(taken);
    if (taken >= 0 || errno != EINTR) return taken;
  }
}

bool PagePipe::send(int socket, bool more) {
  while (held_ > 0) {
    const ssize_t sent =
        splice(out_, nullptr, socket, nullptr, held_, SPLICE_F_MOVE | (more ? SPLICE_F_MORE : 0));
    if (sent > 0) {
      held_ -= static_cast<size_t>(sent);
    } else if (sent == 0 || errno != EINTR) {
      return false;
    }
  }
  return true;
}

}  // namespace lockstep
