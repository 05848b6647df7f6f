// The memory of one emulated GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace lockstep::emulated {

struct Allocation {
  std::byte* data = nullptr;
  size_t bytes = 0;
  std::byte* block = nullptr;  // with its guards, whole pages
  size_t block_bytes = 0;
  bool alive = true;
  bool there = true;           // its stream has come to it
  bool leaving = false;        // cudaFreeAsync was called
  const void* pool = nullptr;  // that it is of; nullptr: cudaMalloc
  int64_t number = 0;          // for people: the n-th of the device
};

// Nobody can touch it but between open() and close().
class Arena {
 public:
  explicit Arena(int64_t limit_bytes);
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena();

  // Aligned to 256 bytes, every byte 0xFF. nullptr where it is full.
  std::byte* allocate(size_t bytes);
  // The same, but of what a pool holds, and not there before arrive().
  std::byte* allocate_later(size_t bytes, const void* pool);
  void arrive(void* data);
  // No work that is queued from here on may use it. The pool that it is of.
  const void* leave(void* data);
  // False where nothing of that address is allocated.
  bool free(void* data);

  bool contains(const void* address) const;
  // The allocation that holds the address or whose guards do, also a freed one; nullptr: none.
  const Allocation* find(const void* address) const;
  // Whether the allocation can be used: by work under way, once its stream has come to it; by what
  // is being queued, unless it has been given back.
  bool usable(const Allocation& allocation) const {
    return allocation.alive && (open_ ? allocation.there : !allocation.leaving);
  }
  // Whether [address, address + bytes) lies in one allocation that is usable.
  bool holds(const void* address, size_t bytes) const;
  // "byte 20 behind device allocation 3 of 512 bytes", "freed device allocation 3 of ..."
  std::string describe(const void* address) const;

  void open();
  void close();
  bool is_open() const { return open_; }
  // The first guard that has been written to; nullptr: none. Only where it is open.
  const Allocation* broken_guard() const;

  int64_t free_bytes() const { return limit_ - used_; }
  // For a pool. False where it is full.
  bool take(int64_t bytes);
  void give(int64_t bytes) { used_ -= bytes; }
  // Allocations that nobody has given back.
  int64_t living() const;
  void fill_with_zeros() { zeros_ = true; }

 private:
  std::byte* place(size_t bytes, const void* pool);
  void protect(const Allocation& allocation, int protection) const;
  void map(const Allocation& allocation) const;

  std::byte* base_ = nullptr;
  size_t cursor_ = 0;
  int fill_ = -1;  // a file of 0xFF, mapped copy-on-write: large allocations cost nothing
  int64_t limit_ = 0, used_ = 0;
  bool open_ = false;
  bool zeros_ = false;
  std::map<const std::byte*, Allocation> allocations_;  // by the block's begin
  std::map<const std::byte*, Allocation> freed_;
};

}  // namespace lockstep::emulated
