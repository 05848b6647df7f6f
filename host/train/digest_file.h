// The digest of every state of a run, in a file: where two runs part is found without running them
// again. 8 bytes little-endian a step: at offset 8 * t the digest of state[t + 1]; 0 is not known.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "host/core/result.h"

namespace lockstep {

// One owner, one thread at a time. Not synced: nothing is recovered from it.
class DigestFile {
 public:
  // Makes the file, or opens it; with `keep` what it holds stays.
  static Result<DigestFile> open(const std::string& path, bool keep);
  DigestFile(DigestFile&& other) noexcept
      : path_(std::move(other.path_)),
        descriptor_(std::exchange(other.descriptor_, -1)),
        first_(other.first_),
        buffer_(std::move(other.buffer_)) {}
  DigestFile& operator=(DigestFile&&) = delete;
  ~DigestFile();

  // Kept in memory until flush(), or until there are many.
  Status put(int64_t step, uint64_t digest);
  // Forgets those of `steps` and later: the job goes on from state[steps].
  Status truncate(int64_t steps);
  Status flush();

 private:
  DigestFile(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}

  std::string path_;
  int descriptor_;
  int64_t first_ = 0;  // step of buffer_[0]
  std::vector<uint64_t> buffer_;
};

// All of a file; a part of a digest at its end is left out.
Result<std::vector<uint64_t>> read_digests(const std::string& path);

}  // namespace lockstep
