// Runs the threads of a kernel's blocks, as fibers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cuda/launch.h"

namespace lockstep::emulated {

// A fiber runs thread after thread to their ends; where one waits at a barrier, it keeps that one
// and another fiber goes on with the threads that are left. A kernel without barriers needs one.
class Grid {
 public:
  Grid() = default;
  Grid(const Grid&) = delete;
  Grid& operator=(const Grid&) = delete;
  ~Grid();

  // Blocks one after the other, in an order that follows from `seed`, as that of their threads
  // between barriers does. Threads that wait at different barriers end the process.
  void run(LaunchShape shape, const std::function<void()>& thread, uint64_t seed);

  // Called by a thread of the kernel under way. `line` names the barrier.
  void barrier(const char* file, unsigned line);
  // Barriers at the n-th line that has one (from 1, in the order in which they are met) don't hold.
  void skip_barrier(int64_t n) { skipped_ = n; }

 private:
  struct Fiber {
    std::byte* stack = nullptr;
    void* top = nullptr;         // where it was left
    void* fake_stack = nullptr;  // the address sanitizer's
    unsigned thread = 0;
    unsigned line = 0;  // of the barrier where it waits; 0: it does not
  };

  static void enter();
  void loop(Fiber& fiber);
  void switch_to(Fiber& fiber);
  void switch_back(Fiber& fiber);
  Fiber* idle_fiber();
  void run_block(unsigned block);
  void check_barrier(const std::vector<Fiber*>& waiting) const;
  void shuffle_threads();

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
  std::vector<Fiber*> waiting_;
  std::vector<unsigned> order_;
  std::vector<unsigned> barriers_;  // their lines, as met
  size_t next_ = 0;
  unsigned left_ = 0;  // threads that have ended
  Fiber* current_ = nullptr;
  const std::function<void()>* thread_ = nullptr;
  LaunchShape shape_;
  uint64_t random_ = 0;
  int64_t skipped_ = 0;
  void* caller_ = nullptr;  // its stack, where it was left
  const void* caller_stack_ = nullptr;
  size_t caller_stack_bytes_ = 0;
};

// Of shared memory that is no template's: filled before each block.
void fill_shared_memory();

}  // namespace lockstep::emulated
