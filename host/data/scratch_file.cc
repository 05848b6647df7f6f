#include "host/data/scratch_file.h"

#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "host/core/check.h"
#include "host/core/files.h"

namespace lockstep {

Result<ScratchFile> ScratchFile::create(const std::string& folder, int64_t size,
                                        const std::string& called) {
  std::string path = folder + "/.lockstep-XXXXXX";
  const int descriptor = ::mkostemp(path.data(), O_CLOEXEC);
  if (descriptor < 0) return file_error("write", called, write_remedy());
  ::unlink(path.c_str());
  ScratchFile file(descriptor, size, called);
  if (::ftruncate(descriptor, size) != 0) return file_error("write", called, write_remedy());
  return file;
}

ScratchFile::ScratchFile(ScratchFile&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      size_(other.size_),
      called_(std::move(other.called_)) {}

ScratchFile::~ScratchFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Status ScratchFile::write(int64_t offset, std::string_view bytes) {
  LOCKSTEP_CHECK(offset >= 0 && offset <= size_ - std::ssize(bytes));
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(descriptor_, bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return file_error("write", called_, write_remedy());
    bytes.remove_prefix(static_cast<size_t>(written));
    offset += written;
  }
  return {};
}

Result<SharedBytes> ScratchFile::map() const {
  return map_descriptor(descriptor_, static_cast<size_t>(size_), called_);
}

}  // namespace lockstep
