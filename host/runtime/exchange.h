// The gradients of a step on their way through the tree: from the local devices and the peers to
// the owners of the slices, and back. A node that is alone needs none of it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "host/cluster/messages.h"
#include "host/core/result.h"
#include "host/reduce/layout.h"
#include "host/reduce/tree_sum.h"

namespace lockstep {

enum class FrameKind : uint8_t {
  piece = 1,    // a contributed subtree of one slice, to the slice's owner
  reduced = 2,  // the whole tree of one slice, from its owner to all
  present = 3   // I have begun this step and have no rows in it
};

// A tensor on its way; `values` stays valid until two steps later.
struct Frame {
  FrameKind kind = FrameKind::piece;
  int64_t step = 0;
  int slice = 0;
  Subtree subtree;
  const float* values = nullptr;
  int64_t count = 0;
};

// A device's root of a group: where its gradients are.
struct LocalRoot {
  Subtree subtree;
  const float* values = nullptr;  // flat
};

struct ExchangeOptions {
  View view;
  SessionId self = 0;
  int partitions = 1;
  SliceLayout layout{1};
  std::function<int64_t(int64_t step)> rows_of_step;
  // Whether a contributed subtree may span several local roots, so that it needs memory of its own.
  bool roots_are_joined = true;
  float scale = 1;  // owners multiply their sums by it: 1 / n for a mean
  // Queues a frame for a member; never blocks on the network.
  std::function<void(int member, const Frame& frame)> send;
};

// Thread-safe: device threads say what is ready, the peers' reading threads bring what comes.
//
// Receive space is planned for two steps. Nobody completes step t before every member has begun it,
// so while a node works on t only frames of t and t + 1 can come; anything else is a violation.
class Exchange {
 public:
  // `device` adds and gives the memory; it outlives the exchange.
  static Result<std::unique_ptr<Exchange>> create(ExchangeOptions options, Device& device);

  // Bytes of receive space that the view needs.
  int64_t planned_bytes() const;

  // Starts a step: `roots` are the nonempty roots of the local devices, `devices` of them will
  // call local_ready for every element once.
  void begin(int64_t step, std::vector<LocalRoot> roots, int devices);
  // One device has finished elements [begin, end) of all its roots.
  void local_ready(int64_t step, int64_t begin, int64_t end);

  // Where a frame from `member` shall be read to, or an error that says what is wrong with it.
  Result<float*> accept(int member, const Frame& frame);
  // It is there.
  void arrived(int member, const Frame& frame);
  // The stream of a member broke: steps that need it cannot complete.
  void member_lost(int member, const std::string& why);

  // Waits until every slice of the step is reduced: the whole flat gradient and metrics.
  Result<const float*> wait(int64_t step, int timeout_ms);
  // The member that keeps the step from completing, for messages; -1 where none is lost.
  int lost_member() const;
  void interrupt();  // wakes wait()

 private:
  struct Slice {
    std::atomic<int64_t> local_missing{0};  // elements times devices
    std::atomic<int> missing{0};            // owner: local part and pieces
    std::vector<TreePiece> pieces;          // owner: of the other members
  };
  struct Step {
    int64_t number = -1;
    std::vector<LocalRoot> roots;
    std::vector<std::unique_ptr<Slice>> slices;
    std::unique_ptr<Buffer> reduced;              // flat
    std::unique_ptr<Buffer> pieces;               // receive space
    std::vector<std::unique_ptr<Buffer>> joined;  // own subtrees that span devices, flat
    int unfinished = 0;                           // slices not reduced, members not present
  };

  Exchange(ExchangeOptions options, Device& device);
  Status allocate();
  int64_t piece_floats(int64_t step) const;
  Step& slot(int64_t step) { return steps_[step % 2]; }
  void prepare(int64_t step);
  void prepare_slice(Step& step, int slice, float** space);
  void slice_locally_done(Step& step, int slice);
  void send_own_pieces(Step& step, int slice);
  void piece_done(Step& step, int slice);
  void reduce(Step& step, int slice);
  void one_finished(Step& step);
  bool owns(int slice) const { return options_.view.slice_owners[slice] == self_; }
  int members() const { return static_cast<int>(options_.view.members.size()); }
  PartitionRange range_of(int member) const { return options_.view.members[member].partitions; }

  const ExchangeOptions options_;
  Device& device_;
  int self_ = -1;
  Step steps_[2];
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int64_t current_ = -1;
  int lost_member_ = -1;
  std::string lost_why_;
  bool interrupted_ = false;
};

}  // namespace lockstep
