// What is there and what is missing of the slices of the steps under way: keys only, the values
// are the caller's. Pure: no threads, no memory, no clock.
//
// A contribution is the sum over one subtree of partitions, for one slice of one step. It is a pure
// function of the recipe, so a copy from anyone under any view is as good as another: a first copy
// is kept, an ancestor replaces its children. Members do not guess what others lack: a node that
// has a new view or a new stream asks for what there is (`want`).
//
// Steps that a node at `step` holds: the one before (whole, for members that still lack it), this
// one, and what comes early of the next. Nobody is further apart, since a step is complete only
// when every member has begun it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <vector>

#include "host/cluster/view.h"
#include "host/core/result.h"

namespace lockstep {

enum class FrameKind : uint8_t {
  piece = 1,      // a contributed subtree of one slice, to the slice's owner
  reduced = 2,    // the whole tree of one slice
  present = 3,    // I have begun this step
  want = 4,       // send me what you have from this step on
  state = 5,      // a part of state[step], from the donor
  want_state = 6  // send me state[step], to the donor
};

inline bool is_of_state(FrameKind kind) {
  return kind == FrameKind::state || kind == FrameKind::want_state;
}

// What carries no values and is answered.
inline bool is_question(FrameKind kind) {
  return kind == FrameKind::want || kind == FrameKind::want_state;
}

struct FrameKey {
  FrameKind kind = FrameKind::piece;
  int64_t step = 0;
  int slice = 0;
  Subtree subtree;
  bool operator==(const FrameKey&) const = default;
};

// "I have begun this step". A piece says so too: where its values are gone when its turn to be sent
// comes, this goes in its place.
inline FrameKey present_key(int64_t step) { return {FrameKind::present, step, 0, {}}; }

// What shall be done now.
struct SendFrame {
  SessionId to = 0;
  FrameKey key;
};
struct ReduceSlice {  // sum `pieces` in the order of the tree, then call reduced()
  int64_t step = 0;
  int slice = 0;
  std::vector<Subtree> pieces;
};
struct ExchangeOrders {
  std::vector<SendFrame> sends;
  std::vector<ReduceSlice> reductions;
};

class ExchangeMachine {
 public:
  ExchangeMachine(int partitions, int slices, std::function<int64_t(int64_t step)> rows_of_step);

  // A new view, at the step that this node has reached. What was held stays, unless the view
  // restores.
  void adopt(const View& view, SessionId self, int64_t step, ExchangeOrders* orders);
  // This node has begun to compute `step`.
  void begin(int64_t step, ExchangeOrders* orders);
  // The sums over `roots` of one slice are there.
  void local_ready(int64_t step, int slice, const std::vector<Subtree>& roots,
                   ExchangeOrders* orders);
  void reduced(int64_t step, int slice, ExchangeOrders* orders);
  // state[step + 1] is here.
  void applied(int64_t step);

  // A frame's header has come: true if its values are wanted, false if they shall be read and
  // dropped. An error: it cannot come from a member that keeps to the protocol.
  Result<bool> offer(SessionId from, const FrameKey& key);
  // The values of a wanted frame are there; or will not come.
  void arrived(SessionId from, const FrameKey& key, ExchangeOrders* orders);
  void gave_up(SessionId from, const FrameKey& key);
  // A new stream to a member.
  void connected(SessionId member, ExchangeOrders* orders);
  // Asks all members again.
  void ask_again(ExchangeOrders* orders);

  // Whether all slices of the step are reduced and every member has begun it.
  bool complete(int64_t step) const;
  // The members that keep it from being complete: those that have not begun it; where all have,
  // the owners of the slices that are missing.
  std::vector<SessionId> waiting_for(int64_t step) const;
  // How many steps it knows of; never more than three.
  int64_t steps_held() const { return static_cast<int64_t>(steps_.size()); }
  // The subtrees in which this node's sums of a step are sent: `roots` joined where they touch.
  std::vector<Subtree> contributions(int64_t step, const std::vector<Subtree>& roots) const;

 private:
  struct Slice {
    std::vector<Subtree> local;   // own sums that are ready
    std::vector<Subtree> pieces;  // at the owner: all that is there, none inside another
    bool reducing = false;
    bool reduced = false;
    SessionId receiving = 0;  // the reduced values are being read from this member's stream
  };
  struct Step {
    std::vector<Slice> slices;
    int unreduced = 0;
  };

  Step& step_at(int64_t step);
  const Step* find(int64_t step) const;
  std::set<SessionId> not_begun(int64_t step) const;
  int64_t rows_of_ranges(int64_t step, const std::vector<PartitionRange>& ranges) const;
  bool local_complete(int64_t step, const Slice& slice) const;
  void push_local(int64_t step, int slice, ExchangeOrders* orders);
  void reduce_if_covered(int64_t step, int slice, ExchangeOrders* orders);
  void send_pieces(int64_t step, int slice, SessionId to, ExchangeOrders* orders);
  void answer(SessionId member, int64_t step, ExchangeOrders* orders);
  bool owns(SessionId session, int slice) const;
  void share_reduced(int64_t step, int slice, ExchangeOrders* orders);
  void send_to_others(const FrameKey& key, ExchangeOrders* orders);
  Status check_piece(const FrameKey& key) const;

  const int partitions_;
  const int slices_;
  const std::function<int64_t(int64_t)> rows_of_step_;
  View view_;
  SessionId self_ = 0;
  int64_t step_ = 0;
  std::map<int64_t, Step> steps_;
  std::map<SessionId, int64_t> begun_;  // the last step that a member is known to have begun
};

// Keeps only what no other contains; false if `subtree` was there already, alone or inside another.
bool insert_subtree(std::vector<Subtree>* subtrees, const Subtree& subtree);

}  // namespace lockstep
