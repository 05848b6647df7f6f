// state[t] from the donor to a member that joins, over the tensor streams: straight out of the
// one's memory and into the other's. Who asks whom, and for what, TransferMachine knows.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <vector>

#include "host/cluster/transfer_machine.h"
#include "host/runtime/exchange.h"
#include "host/runtime/replica.h"

namespace lockstep {

class StateTransfer final : public FrameSink {
 public:
  // `send` as of ExchangeOptions; `done` is called from a stream's thread when the state is there.
  StateTransfer(Replica& replica, std::function<void(SessionId, Frame)> send,
                std::function<void()> done);

  // The main thread, when it adopts a view: expects the state, gives it to others, or neither.
  Status adopt(const View& view, SessionId self);
  // Whether the awaited state is whole; an error where its digest is not the donor's. Takes it up.
  Result<bool> take();
  // How many parts of the awaited state have not come.
  size_t missing();
  // Asks the donor for the awaited state, unless a part of it is on its way.
  void ask_again();

  Result<float*> accept(SessionId from, const FrameKey& key, int64_t count) override;
  void arrived(SessionId from, const FrameKey& key, float* values) override;
  void gave_up(SessionId from, const FrameKey& key, float* values) override;
  void connected(SessionId peer) override;

 private:
  static constexpr int kAccumulators = 255;  // in place of a vector's number

  std::vector<TransferMachine::Part> parts() const;
  // Their values: straight where they lie.
  std::span<float> values_of(const TransferMachine::Part& part);
  // What `decide`, under the lock, wants to be sent.
  void send(const std::function<void(std::vector<SendFrame>*)>& decide);
  int vectors() const { return static_cast<int>(1 + replica_.state().slots.size()); }

  Replica& replica_;
  const SliceLayout layout_;  // of a vector's values
  const std::function<void(SessionId, Frame)> send_;
  const std::function<void()> done_;
  std::mutex mutex_;
  TransferMachine machine_;
  // What a state has beside its vectors; travels as one part: the sums of its metrics, then the
  // bits of its digest. Sent, or received; streams hold its address.
  std::vector<double> accumulators_;
};

}  // namespace lockstep
