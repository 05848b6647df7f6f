// A file without a name, for what is not whole yet: it is gone when its owner is, however that
// ends.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "host/core/result.h"
#include "host/data/shared_bytes.h"

namespace lockstep {

class ScratchFile {
 public:
  // In this folder, with so many bytes, at least one. Errors speak of `called`.
  static Result<ScratchFile> create(const std::string& folder, int64_t size,
                                    const std::string& called);
  ScratchFile(ScratchFile&& other) noexcept;
  ScratchFile& operator=(ScratchFile&&) = delete;
  ~ScratchFile();

  // Any thread. Bytes beyond the file are a broken invariant.
  Status write(int64_t offset, std::string_view bytes);
  // All of it, mapped; what nobody wrote is zero.
  Result<SharedBytes> map() const;

 private:
  ScratchFile(int descriptor, int64_t size, std::string called)
      : descriptor_(descriptor), size_(size), called_(std::move(called)) {}

  int descriptor_;
  int64_t size_;
  std::string called_;
};

}  // namespace lockstep
