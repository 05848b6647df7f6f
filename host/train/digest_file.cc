#include "host/train/digest_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "host/core/files.h"

namespace lockstep {
namespace {

static_assert(std::endian::native == std::endian::little);
constexpr size_t kMaxBuffered = 64;  // what a killed coordinator loses at most
constexpr int64_t kBytes = sizeof(uint64_t);

Error write_error(const std::string& path) {
  return file_error("write the digests", path, write_remedy());
}

}  // namespace

Result<DigestFile> DigestFile::open(const std::string& path, bool keep) {
  const int flags = O_WRONLY | O_CREAT | O_CLOEXEC | (keep ? 0 : O_TRUNC);
  const int descriptor = ::open(path.c_str(), flags, 0644);
  if (descriptor < 0) return write_error(path);
  return DigestFile(path, descriptor);
}

DigestFile::~DigestFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Status DigestFile::put(int64_t step, uint64_t digest) {
  const bool follows = step == first_ + static_cast<int64_t>(buffer_.size());
  if (!follows || buffer_.size() >= kMaxBuffered) LOCKSTEP_RETURN_IF_ERROR(flush());
  if (buffer_.empty()) first_ = step;
  buffer_.push_back(digest);
  return {};
}

Status DigestFile::truncate(int64_t steps) {
  const int64_t kept = std::clamp<int64_t>(steps - first_, 0, std::ssize(buffer_));
  buffer_.resize(static_cast<size_t>(kept));
  LOCKSTEP_RETURN_IF_ERROR(flush());
  const off_t size = ::lseek(descriptor_, 0, SEEK_END);
  if (size <= steps * kBytes) return {};
  return ::ftruncate(descriptor_, steps * kBytes) == 0 ? Status{} : write_error(path_);
}

Status DigestFile::flush() {
  const char* from = reinterpret_cast<const char*>(buffer_.data());
  auto left = static_cast<int64_t>(buffer_.size()) * kBytes;
  for (int64_t offset = first_ * kBytes; left > 0;) {
    const ssize_t written = ::pwrite(descriptor_, from, static_cast<size_t>(left), offset);
    if (written < 0) return write_error(path_);
    from += written;
    offset += written;
    left -= written;
  }
  buffer_.clear();
  return {};
}

Result<std::vector<uint64_t>> read_digests(const std::string& path) {
  LOCKSTEP_ASSIGN(const std::string bytes, read_file(path));
  std::vector<uint64_t> digests(bytes.size() / kBytes);
  std::memcpy(digests.data(), bytes.data(), digests.size() * kBytes);
  return digests;
}

}  // namespace lockstep
