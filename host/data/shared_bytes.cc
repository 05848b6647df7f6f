#include "host/data/shared_bytes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/core/check.h"
#include "host/core/files.h"

namespace lockstep {
namespace {

class Descriptor {
 public:
  explicit Descriptor(const std::string& path)
      : number_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number() const { return number_; }

 private:
  const int number_;
};

}  // namespace

SharedBytes::SharedBytes(std::vector<uint8_t> bytes) {
  const auto owner = std::make_shared<const std::vector<uint8_t>>(std::move(bytes));
  data_ = owner->data();
  size_ = owner->size();
  owner_ = owner;
}

SharedBytes SharedBytes::part(size_t begin, size_t size) const {
  LOCKSTEP_CHECK(begin <= size_ && size <= size_ - begin);
  return {owner_, data_ + begin, size, mapped_};
}

void SharedBytes::release() const {
  if (!mapped_) return;
  // Pages that lie here in part too: nothing is lost by it.
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(data_) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(data_) + size_;
  ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

Result<SharedBytes> map_file(const std::string& path) {
  const Descriptor file(path);
  struct stat info {};
  if (file.number() < 0 || ::fstat(file.number(), &info) != 0) {
    return file_error("read", path, "check the path and who may read it");
  }
  if (!S_ISREG(info.st_mode)) {
    return Error{fmt::format("cannot read '{}': it is not a file; name a file", path)};
  }
  const auto size = static_cast<size_t>(info.st_size);
  if (size == 0) return SharedBytes();
  return map_descriptor(file.number(), size, path);
}

Result<SharedBytes> map_descriptor(int descriptor, size_t size, const std::string& path) {
  void* memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (memory == MAP_FAILED) return file_error("map", path);
  std::shared_ptr<const void> owner(memory, [size](void* begin) { ::munmap(begin, size); });
  return SharedBytes(std::move(owner), static_cast<const uint8_t*>(memory), size, true);
}

}  // namespace lockstep
