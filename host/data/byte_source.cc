#include "host/data/byte_source.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "host/core/check.h"
#include "host/core/files.h"

namespace lockstep {
namespace {

constexpr size_t kInputBytes = 256 << 10;
// zlib's flag for a gzip header and trailer around the deflate data.
constexpr int kGzipWindowBits = 16 + MAX_WBITS;

}  // namespace

Result<std::unique_ptr<ByteSource>> ByteSource::open(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    return Error{fmt::format("cannot read '{}': {}; check the path and who may read it", path,
                             errno_text())};
  }
  struct stat info {};
  const bool known = ::fstat(descriptor, &info) == 0;
  std::unique_ptr<ByteSource> source(new ByteSource(path, descriptor, info.st_size));
  if (!known || !S_ISREG(info.st_mode)) {
    return Error{
        fmt::format("cannot read '{}': it is not a file; name a plain or gzip file", path)};
  }
  LOCKSTEP_RETURN_IF_ERROR(source->start());
  return source;
}

ByteSource::ByteSource(std::string path, int descriptor, int64_t file_bytes)
    : path_(std::move(path)), descriptor_(descriptor), file_bytes_(file_bytes) {}

ByteSource::~ByteSource() {
  if (is_gzip_) inflateEnd(&stream_);
  ::close(descriptor_);
}

// Reads the first piece, to tell gzip by its first two bytes.
Status ByteSource::start() {
  input_.resize(kInputBytes);
  LOCKSTEP_RETURN_IF_ERROR(refill());
  if (stream_.avail_in < 2 || input_[0] != 0x1f || input_[1] != 0x8b) return {};
  is_gzip_ = true;
  LOCKSTEP_CHECK(inflateInit2(&stream_, kGzipWindowBits) == Z_OK);
  return {};
}

Result<size_t> ByteSource::read(uint8_t* to, size_t bytes) {
  return is_gzip_ ? read_gzip(to, bytes) : read_plain(to, bytes);
}

Result<size_t> ByteSource::read_file(uint8_t* to, size_t bytes) {
  size_t total = 0;
  while (total < bytes) {
    const ssize_t count = ::read(descriptor_, to + total, bytes - total);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Error{fmt::format("cannot read '{}': {}", path_, errno_text())};
    if (count == 0) break;
    total += static_cast<size_t>(count);
  }
  return total;
}

Status ByteSource::refill() {
  LOCKSTEP_ASSIGN(const size_t count, read_file(input_.data(), input_.size()));
  stream_.next_in = input_.data();
  stream_.avail_in = static_cast<uInt>(count);
  return {};
}

Result<size_t> ByteSource::read_plain(uint8_t* to, size_t bytes) {
  const size_t buffered = std::min<size_t>(bytes, stream_.avail_in);
  std::copy_n(stream_.next_in, buffered, to);
  stream_.next_in += buffered;
  stream_.avail_in -= static_cast<uInt>(buffered);
  LOCKSTEP_ASSIGN(const size_t direct, read_file(to + buffered, bytes - buffered));
  return buffered + direct;
}

Result<size_t> ByteSource::read_gzip(uint8_t* to, size_t bytes) {
  LOCKSTEP_CHECK(bytes <= kInputBytes << 10);
  stream_.next_out = to;
  stream_.avail_out = static_cast<uInt>(bytes);
  while (stream_.avail_out > 0) {
    if (stream_.avail_in == 0) LOCKSTEP_RETURN_IF_ERROR(refill());
    if (stream_.avail_in == 0) {
      is_cut_short_ = !member_ended_;
      break;
    }
    // A gzip file may be several, one behind the other.
    if (member_ended_) LOCKSTEP_CHECK(inflateReset(&stream_) == Z_OK);
    const int code = inflate(&stream_, Z_NO_FLUSH);
    member_ended_ = code == Z_STREAM_END;
    if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR) {
      return Error{fmt::format("'{}' is a damaged gzip file: {}; copy or download it again", path_,
                               stream_.msg != nullptr ? stream_.msg : zError(code))};
    }
  }
  return bytes - stream_.avail_out;
}

}  // namespace lockstep
