#include "tests/emulated_cuda/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "host/core/check.h"

#ifdef LOCKSTEP_SANITIZED
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) static_cast<void>(0)
#define ASAN_UNPOISON_MEMORY_REGION(address, size) static_cast<void>(0)
#endif

namespace lockstep::emulated {
namespace {

constexpr size_t kReserved = size_t{1} << 40;  // of addresses, not of memory
constexpr size_t kPage = 4096;
constexpr size_t kGuard = 256;  // at least, on both sides
constexpr size_t kFillBytes = size_t{8} << 20;
constexpr int kFillByte = 0xFF;

size_t pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// For the life of the process: writing it takes longer than most tests.
int fill_file() {
  static const int file = [] {
    const int made = memfd_create("emulated-gpu", MFD_CLOEXEC);
    const std::vector<unsigned char> bytes(kFillBytes, kFillByte);
    LOCKSTEP_CHECK(made >= 0 &&
                   write(made, bytes.data(), kFillBytes) == static_cast<ssize_t>(kFillBytes));
    return made;
  }();
  return file;
}

[[maybe_unused]] bool is_filled(const std::byte* begin, size_t bytes) {
  return std::all_of(begin, begin + bytes, [](std::byte b) { return b == std::byte{kFillByte}; });
}

// Nothing between two ends of pages is poisoned any more. ASan's own pages for it, an eighth of the
// bytes, are given back: addresses are never used again, so they would only become more.
void forget_guards([[maybe_unused]] std::byte* begin, [[maybe_unused]] std::byte* end) {
#ifdef LOCKSTEP_SANITIZED
  size_t scale = 0, offset = 0;
  __asan_get_shadow_mapping(&scale, &offset);
  const size_t shadowed = kPage << scale;  // bytes whose shadow is one page
  const auto bytes = static_cast<size_t>(end - begin);
  ASAN_UNPOISON_MEMORY_REGION(begin, std::min(bytes, shadowed));
  ASAN_UNPOISON_MEMORY_REGION(end - std::min(bytes, shadowed), std::min(bytes, shadowed));
  const size_t first = pages((reinterpret_cast<uintptr_t>(begin) >> scale) + offset);
  const size_t last = ((reinterpret_cast<uintptr_t>(end) >> scale) + offset) / kPage * kPage;
  if (first >= last) return;
  LOCKSTEP_CHECK(madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED) == 0);
#endif
}

}  // namespace

Arena::Arena(int64_t limit_bytes) : limit_(limit_bytes) {
  void* memory =
      mmap(nullptr, kReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  LOCKSTEP_CHECK(memory != MAP_FAILED);
  base_ = static_cast<std::byte*>(memory);
  fill_ = fill_file();
}

Arena::~Arena() {
  forget_guards(base_, base_ + cursor_);
  munmap(base_, kReserved);
}

void Arena::map(const Allocation& allocation) const {
  const int protection = open_ && allocation.there ? PROT_READ | PROT_WRITE : PROT_NONE;
  for (size_t offset = 0; offset < allocation.block_bytes; offset += kFillBytes) {
    const size_t size = std::min(kFillBytes, allocation.block_bytes - offset);
    const int flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE | (zeros_ ? MAP_ANONYMOUS : 0);
    LOCKSTEP_CHECK(mmap(allocation.block + offset, size, protection, flags, zeros_ ? -1 : fill_,
                        0) != MAP_FAILED);
  }
}

bool Arena::take(int64_t bytes) {
  if (bytes > free_bytes()) return false;
  used_ += bytes;
  return true;
}

std::byte* Arena::allocate(size_t bytes) {
  return take(static_cast<int64_t>(bytes)) ? place(bytes, nullptr) : nullptr;
}

std::byte* Arena::allocate_later(size_t bytes, const void* pool) { return place(bytes, pool); }

// A page of guard, the data, a guard to the end of the page, a page that is never there.
std::byte* Arena::place(size_t bytes, const void* pool) {
  Allocation allocation;
  allocation.bytes = bytes;
  allocation.pool = pool;
  allocation.there = pool == nullptr;
  allocation.block = base_ + cursor_;
  allocation.data = allocation.block + kPage;
  allocation.block_bytes = kPage + pages(bytes + kGuard);
  allocation.number = static_cast<int64_t>(allocations_.size() + freed_.size()) + 1;
  cursor_ += allocation.block_bytes + kPage;
  LOCKSTEP_CHECK(cursor_ <= kReserved);
  map(allocation);
  ASAN_POISON_MEMORY_REGION(allocation.block, kPage);
  ASAN_POISON_MEMORY_REGION(allocation.data + bytes, allocation.block_bytes - kPage - bytes);
  allocations_.emplace(allocation.block, allocation);
  return allocation.data;
}

int64_t Arena::living() const {
  return std::count_if(allocations_.begin(), allocations_.end(),
                       [](const auto& entry) { return !entry.second.leaving; });
}

void Arena::arrive(void* data) {
  Allocation& allocation = allocations_.at(static_cast<std::byte*>(data) - kPage);
  allocation.there = true;
  protect(allocation, PROT_READ | PROT_WRITE);
}

const void* Arena::leave(void* data) {
  const auto found = allocations_.find(static_cast<std::byte*>(data) - kPage);
  if (found == allocations_.end()) return nullptr;
  found->second.leaving = true;
  return found->second.pool;
}

bool Arena::free(void* data) {
  const auto found = allocations_.find(static_cast<std::byte*>(data) - kPage);
  if (found == allocations_.end()) return false;
  Allocation allocation = found->second;
  allocation.alive = false;
  allocations_.erase(found);
  freed_.emplace(allocation.block, allocation);
  if (allocation.pool == nullptr) give(static_cast<int64_t>(allocation.bytes));
  forget_guards(allocation.block, allocation.block + allocation.block_bytes);
  LOCKSTEP_CHECK(mmap(allocation.block, allocation.block_bytes, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
                      0) != MAP_FAILED);
  return true;
}

bool Arena::contains(const void* address) const {
  const auto* at = static_cast<const std::byte*>(address);
  return at >= base_ && at < base_ + kReserved;
}

const Allocation* Arena::find(const void* address) const {
  if (!contains(address)) return nullptr;
  const auto* at = static_cast<const std::byte*>(address);
  for (const auto* allocations : {&allocations_, &freed_}) {
    auto found = allocations->upper_bound(at);
    if (found == allocations->begin()) continue;
    --found;
    const Allocation& allocation = found->second;
    if (at < allocation.block + allocation.block_bytes + kPage) return &allocation;
  }
  return nullptr;
}

bool Arena::holds(const void* address, size_t bytes) const {
  const Allocation* allocation = find(address);
  if (allocation == nullptr || !usable(*allocation)) return false;
  const auto* at = static_cast<const std::byte*>(address);
  return at >= allocation->data && at + bytes <= allocation->data + allocation->bytes;
}

std::string Arena::describe(const void* address) const {
  const Allocation* allocation = find(address);
  if (allocation == nullptr) return "device memory that was never allocated";
  const std::ptrdiff_t offset = static_cast<const std::byte*>(address) - allocation->data;
  const auto bytes = static_cast<std::ptrdiff_t>(allocation->bytes);
  std::string place = "byte " + std::to_string(offset) + " of ";
  if (offset < 0) place = std::to_string(-offset) + " bytes before ";
  if (offset >= bytes) place = "byte " + std::to_string(offset - bytes) + " behind ";
  const bool late = !allocation->alive || (allocation->leaving && !open_);
  const char* state = late ? "freed " : allocation->there ? "" : "not yet allocated ";
  return place + state + "device allocation " + std::to_string(allocation->number) + " of " +
         std::to_string(bytes) + " bytes";
}

void Arena::protect(const Allocation& allocation, int protection) const {
  LOCKSTEP_CHECK(mprotect(allocation.block, allocation.block_bytes, protection) == 0);
}

void Arena::open() {
  if (open_) return;
  open_ = true;
  for (const auto& [begin, allocation] : allocations_) {
    if (allocation.there) protect(allocation, PROT_READ | PROT_WRITE);
  }
}

void Arena::close() {
  if (!open_) return;
  open_ = false;
  for (const auto& [begin, allocation] : allocations_) {
    protect(allocation, PROT_NONE);
  }
}

const Allocation* Arena::broken_guard() const {
#ifndef LOCKSTEP_SANITIZED  // there the guards are poisoned: the write itself is seen
  if (zeros_) return nullptr;
  for (const auto& [begin, allocation] : allocations_) {
    if (!allocation.there) continue;
    const size_t behind = allocation.block_bytes - kPage - allocation.bytes;
    if (!is_filled(allocation.data - kGuard, kGuard) ||
        !is_filled(allocation.data + allocation.bytes, std::min(behind, 2 * kGuard))) {
      return &allocation;
    }
  }
#endif
  return nullptr;
}

}  // namespace lockstep::emulated
