// The gradients of a step on their way through the tree: from the local devices and the peers to
// the owners of the slices, and back. What is there and what is missing ExchangeMachine knows; here
// are the values and the threads.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "host/cluster/exchange_machine.h"
#include "host/core/result.h"
#include "host/device/device.h"
#include "host/reduce/layout.h"
#include "host/reduce/tree_sum.h"
#include "host/runtime/piece_pool.h"
#include "host/runtime/stream.h"

namespace lockstep {

// The hash of values that may go to several peers: made once, by the first who needs it.
class FrameHash {
 public:
  uint64_t of(const float* values, int64_t count);

 private:
  std::once_flag once_;
  uint64_t hash_ = 0;
};

// A tensor on its way. Its memory is `keep`'s, or belongs to the step and lasts no longer.
struct Frame {
  FrameKey key;
  const float* values = nullptr;
  int64_t count = 0;
  std::shared_ptr<const float> keep;
  std::optional<Lasting> lasting;  // they may be sent without a copy while they last, not later
  std::shared_ptr<FrameHash> hash = std::make_shared<FrameHash>();  // the copies' as well
};

// A device's root of a group: where its gradients are.
struct LocalRoot {
  Subtree subtree;
  const float* values = nullptr;  // flat
};

// What reads frames from peers and is told of streams. Called from the streams' threads.
class FrameSink {
 public:
  virtual ~FrameSink() = default;
  // Where the values shall be read to; nullptr: read them and drop them. An error ends the stream.
  virtual Result<float*> accept(SessionId from, const FrameKey& key, int64_t count) = 0;
  // A part of the values is there, and more of them will come.
  virtual void part_arrived(const FrameKey&) {}
  // They are there (of a question: it has come); or the stream broke before.
  virtual void arrived(SessionId from, const FrameKey& key, float* values) = 0;
  virtual void gave_up(SessionId from, const FrameKey& key, float* values) = 0;
  // A stream to a peer is up, the first or a new one.
  virtual void connected(SessionId peer) = 0;
};

struct ExchangeOptions {
  int partitions = 1;
  SliceLayout layout{1};
  std::function<int64_t(int64_t step)> rows_of_step;
  float scale = 1;  // owners multiply their sums by it: 1 / n for a mean
  // Queues a frame; never blocks on the network.
  std::function<void(SessionId to, Frame frame)> send;
  // Frames of kinds `state` and `want_state` go here.
  FrameSink* state_sink = nullptr;
};

class Exchange final : public FrameSink {
 public:
  // `device` adds and gives the memory; it outlives the exchange.
  static Result<std::unique_ptr<Exchange>> create(ExchangeOptions options, Device& device);

  // Bytes that a member of such a view needs for reduced gradients and receive space.
  static int64_t planned_bytes(const ExchangeOptions& options, const View& view, SessionId self,
                               const Device& device);

  // The main thread's part. A new view, at the step that this node has reached.
  void adopt(const View& view, SessionId self, int64_t step);
  // Starts to compute partitions of a step, the first time or again: `devices` of them will call
  // local_ready for every element of `roots` once.
  void begin(int64_t step, const std::vector<LocalRoot>& roots, int devices);
  enum class Waited { complete, interrupted, progress, no_progress };
  // Waits until the whole flat gradient of the step is there. `progress`: it is not yet, but
  // something of it came.
  Waited wait(int64_t step, int timeout_ms);
  // Waits until it is interrupted.
  void wait_for_news(int timeout_ms);
  const float* reduced(int64_t step) const { return reduced_[step % 2]->data(); }
  void applied(int64_t step);
  std::vector<SessionId> waiting_for(int64_t step) const;
  void interrupt();  // ends the wait that is under way, or the next
  void ask_again();

  // One device has finished elements [begin, end) of all its roots. Any thread.
  void local_ready(int64_t step, int64_t begin, int64_t end);

  Result<float*> accept(SessionId from, const FrameKey& key, int64_t count) override;
  void part_arrived(const FrameKey& key) override;
  void arrived(SessionId from, const FrameKey& key, float* values) override;
  void gave_up(SessionId from, const FrameKey& key, float* values) override;
  void connected(SessionId peer) override;

 private:
  // One call of begin().
  struct Round {
    std::vector<LocalRoot> roots;
    std::vector<std::atomic<int64_t>> missing;  // elements times devices, by slice
    explicit Round(size_t slices) : missing(slices) {}
  };
  using Piece = std::pair<Subtree, std::shared_ptr<float>>;
  // Received pieces, by step and slice.
  using Pieces = std::map<std::pair<int64_t, int>, std::vector<Piece>>;

  Exchange(ExchangeOptions options, Device& device);
  void carry_out(ExchangeOrders orders);
  void reduce(const ReduceSlice& order);
  Frame frame_of(const FrameKey& key);
  std::shared_ptr<float> joined(const FrameKey& key, const std::vector<TreePiece>& pieces);
  std::vector<TreePiece> values_of(const ReduceSlice& order,
                                   std::vector<std::shared_ptr<float>>* keep) const;
  void wake_if_complete();

  const ExchangeOptions options_;
  Device& device_;
  std::unique_ptr<Buffer> reduced_[2];  // flat, by the step's parity
  std::shared_ptr<PiecePool> pool_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  ExchangeMachine machine_;
  std::atomic<int64_t> step_{0};  // changes before anything of former steps is overwritten
  std::shared_ptr<Round> round_;
  std::vector<LocalRoot> roots_;  // of all rounds of this step
  Pieces pieces_;
  std::map<float*, std::shared_ptr<float>> receiving_;  // pieces that are being read
  int64_t news_ = 0;                                    // how often something came of values
  bool interrupted_ = false;
};

}  // namespace lockstep
