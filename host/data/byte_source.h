// The bytes of a file, inflated where its content is gzip.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "host/core/result.h"

namespace lockstep {

// Bytes that a deflated one becomes at most: https://zlib.net/zlib_tech.html
inline constexpr int64_t kMaxDeflateRatio = 1032;

// Owns the open file. One thread. Reads no further than it is asked to, so a small file that
// inflates without end costs no memory.
class ByteSource {
 public:
  // Fails where the file cannot be opened or is not a regular file.
  static Result<std::unique_ptr<ByteSource>> open(const std::string& path);
  ~ByteSource();
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

  // Fills `to`; returns fewer bytes only at the end. Fails where reading fails or the gzip data is
  // damaged, which includes its checksum.
  Result<size_t> read(uint8_t* to, size_t bytes);

  bool is_gzip() const { return is_gzip_; }
  // The gzip data ended before its own end; known once read() has come to the end.
  bool is_cut_short() const { return is_cut_short_; }
  // As it lies on the disk.
  int64_t file_bytes() const { return file_bytes_; }

 private:
  ByteSource(std::string path, int descriptor, int64_t file_bytes);
  Status start();
  Result<size_t> read_file(uint8_t* to, size_t bytes);
  Result<size_t> read_plain(uint8_t* to, size_t bytes);
  Result<size_t> read_gzip(uint8_t* to, size_t bytes);
  Status refill();

  const std::string path_;
  const int descriptor_;
  const int64_t file_bytes_;
  bool is_gzip_ = false;
  bool is_cut_short_ = false;
  bool member_ended_ = false;
  std::vector<uint8_t> input_;  // its unread part is stream_.next_in, stream_.avail_in
  z_stream stream_{};
};

}  // namespace lockstep
