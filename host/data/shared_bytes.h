// Bytes that do not change, in memory or in a mapped file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "host/core/result.h"

namespace lockstep {

// Every copy keeps them alive.
class SharedBytes {
 public:
  SharedBytes() = default;
  explicit SharedBytes(std::vector<uint8_t> bytes);
  // `mapped`: of a file, by mmap.
  SharedBytes(std::shared_ptr<const void> owner, const uint8_t* data, size_t size,
              bool mapped = false)
      : owner_(std::move(owner)), data_(data), size_(size), mapped_(mapped) {}

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  // Bytes [begin, begin + size), which must be there.
  SharedBytes part(size_t begin, size_t size) const;
  // Gives back the memory of these bytes where they are of a mapped file: they are read from it
  // again when somebody looks. For what is read once; bytes in memory stay.
  void release() const;

 private:
  std::shared_ptr<const void> owner_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
  bool mapped_ = false;
};

// Bytes that are read once are read in pieces of this size and each is released behind the reader,
// so that a file and what is made of it are not in memory at the same time.
constexpr size_t kReadOnceBytes = 1 << 20;

// A whole file, mapped: memory is taken as pages are read, and given back where it is short. The
// file must stay as it is: a process that reads where it was cut short is ended by SIGBUS. Errors
// name the file and the remedy.
Result<SharedBytes> map_file(const std::string& path);
// An open one of this size, not empty; `path` is for messages.
Result<SharedBytes> map_descriptor(int descriptor, size_t size, const std::string& path);

}  // namespace lockstep
