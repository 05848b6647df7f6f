// What the emulated machine consists of; for the .cc files of this folder only.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "tests/emulated_cuda/arena.h"
#include "tests/emulated_cuda/grid.h"
#include "tests/emulated_cuda/runtime.h"

namespace lockstep::emulated {

// What CUDA calls undefined, or an error that no code here may make: says so and ends the process.
[[noreturn]] void violation(const std::string& what);

// A piece of work of one device or more. Run with their arenas open, perhaps many times (graphs).
struct Work {
  std::string name;
  std::vector<int> devices;
  std::function<void()> run;  // may be empty: a place in the order
};

// Work that is queued, with what must be done before.
struct Node {
  Work work;
  uint64_t lane = 0;  // nodes of one lane have one priority
  int missing = 0;    // of those before it
  bool done = false;
  bool wanted = false;                               // what is waited for comes after it
  std::vector<std::shared_ptr<Node>> before, after;  // until it is done
};
using NodePtr = std::shared_ptr<Node>;

struct GraphNode {
  Work work;
  uint64_t lane = 0;
  std::vector<int> before;  // nodes of the graph, each of a smaller number
};

// cudaGraph_t and cudaGraphExec_t.
struct Graph {
  std::vector<GraphNode> nodes;
  int device = 0;
  bool destroyed = false;
};

struct Stream;

// One capture under way, of all its streams.
struct Capture {
  Stream* origin = nullptr;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  Graph graph;
  bool invalid = false;
  std::vector<Stream*> streams;
};

struct Stream {
  uint64_t number = 0;
  int device = 0;
  bool destroyed = false;
  NodePtr tail;                      // the last that was queued
  std::shared_ptr<Capture> capture;  // nullptr: none under way
  std::set<int> captured;            // nodes of the capture that the next one comes after
};

struct Event {
  int device = 0;
  bool destroyed = false;
  NodePtr node;                      // nullptr: never recorded, or nothing was queued
  std::shared_ptr<Capture> capture;  // of the last record
  std::set<int> captured;
};

struct HostBlock {
  std::byte* data = nullptr;
  size_t bytes = 0;
  bool freed = false;
};

// cudaMemPool_t. Bytes.
struct Pool {
  int device = 0;
  bool destroyed = false;
  int64_t threshold = 0;
  int64_t used = 0, reserved = 0;
};

struct Planted {
  Bug bug = Bug::none;
  int64_t left = 0;  // until it shows
};

struct State {
  explicit State(const Options& options);
  ~State();

  std::recursive_mutex mutex;
  const Options options;
  std::vector<std::unique_ptr<Arena>> arenas;              // one a device
  std::vector<bool> broken;                                // devices whose work has failed
  std::map<const void*, std::unique_ptr<Stream>> streams;  // destroyed ones too, to name them
  std::map<const void*, std::unique_ptr<Event>> events;
  std::map<const void*, std::unique_ptr<Graph>> graphs;
  std::map<const void*, std::unique_ptr<Graph>> executables;
  std::map<const std::byte*, HostBlock> host;  // pinned memory
  std::map<const void*, std::unique_ptr<Pool>> pools;
  std::map<std::string, int> vendor_objects;  // handles and descriptors of libraries that live

  // The order.
  std::vector<NodePtr> ready;
  uint64_t random = 0;    // the generator's state
  uint64_t priority = 0;  // changes now and then: the lanes' priorities follow from it
  bool by_lane = false;   // the stream that was created last goes first
  bool eager = false;     // some work runs as it is enqueued
  int lazy = 0;           // of 4 waits, so many run no more than they need
  int ahead = 0;          // of 4 waits, so many go by lane
  Grid grid;

  // Failures and counts.
  int64_t call_count = 0, failing_call = 0;
  int64_t work_count = 0, failing_work = 0;
  std::string failing_name;  // of the call that counts; "": any
  std::string failed_call;
  std::map<std::string, int64_t> call_counts;
  Planted planted;

  uint64_t draw();
  // Whether the planted bug shows here.
  bool shows(Bug bug);
  NodePtr enqueue(Work work, uint64_t lane, const std::vector<NodePtr>& before);
  // The ready piece of highest priority; of the wanted ones, if any is wanted.
  void run_one();
  void want(const NodePtr& node);
  void run_until_done(const NodePtr& node);
  void run_device(int device);
  void execute(Node& node);
  void close_arenas();
  int device_of(const void* address) const;  // -1: of none
};

// The machine there is. Fails where there is none.
State& state();
bool has_state();

// The stream's device and queue, or where it is captured, the graph. Names what is wrong with the
// stream and returns an error, or puts the work there.
cudaError_t submit(cudaStream_t stream, Work work);
// The living stream of this handle; reports the default stream and destroyed ones.
Stream& stream_of(cudaStream_t handle, const char* call);
// Ends the process where [address, address + bytes) is no living memory of the device.
void check_device_memory(const void* address, size_t bytes, int device, const std::string& what);

// What a wait of the host does: pools give back what they hold beyond their threshold.
void shrink_pools(int device);

int current_device();
void set_current_device(int device);
void remember_error(cudaError_t error);
cudaError_t take_error();

// The beginning of each function of an API: takes the lock, counts, perhaps fails.
class Call {
 public:
  explicit Call(const char* name);
  // Whether this call was chosen to fail, or an earlier piece of work of the device has failed.
  bool fails() const { return fails_ || broken_; }
  // What to return then. `error` where it is this call that was chosen.
  cudaError_t failure(cudaError_t error) const;
  // Returns it and remembers it for cudaGetLastError.
  cudaError_t result(cudaError_t error) const;
  bool chosen() const { return fails_; }

 private:
  std::unique_lock<std::recursive_mutex> lock_;
  bool fails_ = false;
  bool broken_ = false;
};

}  // namespace lockstep::emulated
