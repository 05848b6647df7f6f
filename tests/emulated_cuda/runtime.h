// CUDA for the CPU, so that all of cuda/ runs in tests where no GPU is.
//
// Emulated, against NVIDIA's own headers: the functions of the runtime API that cuda/ uses
// (runtime_*.cc), kernels compiled from the same .cu files as C++ (launch.h, grid.h), cublasLt
// (cublaslt.cc), NCCL (nccl.cc) and, beside the real libcudnn that makes the plans, the execution
// of convolutions (cudnn.cc).
//  - Device memory lies in an arena of its own per device that the host can't touch, and kernels
//    only where they run on that device. Guards around each allocation are looked at after each
//    piece of work. It is filled with NaN; addresses are never given out twice, so that freed
//    memory is known as such.
//  - Work is deferred: it advances when somebody waits, in an order chosen by the seed with a
//    random priority a stream. Seeds differ in kind too: on some a wait runs no more than it needs,
//    so that what it should have needed is missing; on some the streams that were created last run
//    ahead; on some work also runs as it is enqueued.
//  - Memory pools, in the order of the streams (runtime_pools.cc).
//  - NCCL moves between GPUs when both ends have come to it (nccl.cc): order and sizes are
//    compared, and it never ends where one end doesn't come.
//  - Stream capture (relaxed), graphs, events; the n-th call, or the n-th piece of work, can be
//    made to fail; calls are counted by name.
//  - What CUDA's manual calls undefined ends the process with a message that names it.
//
// Not emulated: the default stream (its use is reported), warps (shuffles, votes), atomics,
// clusters, textures, managed memory, dynamic shared memory, grids of two dimensions, timing, peer
// access by kernels, graph updates. Work of different streams is interleaved piece by piece, never
// within a kernel; host and device never run at once.
//
// What its author may have misread of the manual, as no GPU was at hand:
//  - cudaFree and cudaFreeHost wait for the device (Options::free_waits; the guide says so of
//    cudaMalloc and cudaFree in its chapter on stream-ordered allocation).
//  - Memory of a pool is there for the stream that asked for it and for what waits for an event of
//    it, until the stream that it is given back on has come to that; where a pool has no room, the
//    call waits for what is being given back; cudaMalloc doesn't get what a pool holds; NCCL can't
//    reach a pool's memory from another GPU.
//  - A copy from or to pageable memory is deferred like any other, the strictest reading of "may be
//    asynchronous". In a capture it is refused.
//  - An event that was last recorded in a capture is an error outside of that capture.
//  - Threads that left a kernel don't count at barriers in CUDA; here that is a fault.
//  - Destroying a stream, an event or a graph with work under way lets the work end.
//  - cublasLt's order of sums depends here on the shape and on the declared alignments.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "cuda/launch.h"

namespace lockstep::emulated {

struct Options {
  int devices = 1;
  int compute = 90;  // its capability: 9.0
  uint64_t seed = 1;
  int64_t memory_bytes = 85017493504;  // a device
  bool has_nccl = true;
  bool memory_pools = true;
  bool free_waits = true;  // else what still reads the memory finds it gone
};

// Defects that a test switches on to see that they are found.
enum class Bug {
  none,
  skip_stream_wait,   // the n-th cudaStreamWaitEvent does nothing
  skip_event_record,  // the n-th cudaEventRecord does nothing
  skip_event_wait,    // the n-th cudaEventSynchronize does nothing
  early_free,         // the n-th cudaFreeAsync doesn't wait for its stream
  skip_barrier,       // no thread stops at the n-th call site of __syncthreads of a launch
  wrong_leading,      // cublasLt's n-th layout says one row more
  wrong_padding,      // convolutions pad behind what should be padded before
  stalled_transfer,   // NCCL's n-th transfer or collective never happens
  lost_peer,          // the n-th question for NCCL's errors says that a peer is gone
  skip_fill,          // device memory isn't filled with NaN: zeros, as a fresh GPU's often is
};

struct State;

// The machine with its GPUs: one at a time. Its end takes all that is left with it; see leaks().
class Machine {
 public:
  explicit Machine(const Options& options = {});
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  ~Machine();

  // From here on, another order.
  void set_seed(uint64_t seed);
  // The n-th call (from 1) from here on fails; 0: none. Calls that release something do so all the
  // same. After a wait that failed, everything of the device fails, until this is called again.
  void fail_call(int64_t n);
  // The n-th call of this name.
  void fail_call(const std::string& name, int64_t n);
  // The n-th piece of work fails when it is executed, and everything of its device after it.
  void fail_work(int64_t n);
  void plant(Bug bug, int64_t n = 1);
  // Of the call that was made to fail; "" if none was.
  std::string failed_call() const;
  // Since the start, or since fail_call.
  int64_t calls() const;
  int64_t calls(const std::string& name) const;
  int64_t executed() const;  // pieces of work
  // What is still there: "3 of device memory, 1 stream"; "" if nothing is.
  std::string leaks() const;
  // Runs what is queued on all devices.
  void drain();

 private:
  std::unique_ptr<State> state_;
};

}  // namespace lockstep::emulated
