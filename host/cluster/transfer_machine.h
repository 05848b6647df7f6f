// How state[t] comes from the donor to the members that join, in parts: keys only, the values are
// the caller's. Pure: no threads, no memory, no clock.
//
// The joiner asks once it has the view: what came before that would be lost. The donor answers when
// it has the view itself. No member can apply step t before the joiner has begun it, so the donor's
// state does not change while it is being sent.
#pragma once

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "host/cluster/exchange_machine.h"

namespace lockstep {

class TransferMachine {
 public:
  using Part = std::pair<int, int>;  // vector, slice of it
  explicit TransferMachine(std::vector<Part> parts) : parts_(std::move(parts)) {}

  static Part part_of(const FrameKey& key) { return {key.subtree.first, key.slice}; }
  static FrameKey key_of(const Part& part, int64_t step) {
    return {FrameKind::state, step, part.second, {part.first, 0}};
  }
  // Whether this member is the donor of a view.
  static bool gives(const View& view, SessionId self);

  // A new view: expects the state, gives it to others, or neither.
  void adopt(const View& view, SessionId self, std::vector<SendFrame>* sends);
  // A new stream to a member.
  void connected(SessionId member, std::vector<SendFrame>* sends);
  // Asks the donor for the awaited state, unless a part of it is on its way.
  void ask_again(std::vector<SendFrame>* sends);

  // A frame's header has come: whether its values are wanted.
  bool offer(SessionId from, const FrameKey& key);
  // The values of a wanted frame are there, or a question; or they will not come.
  void arrived(SessionId from, const FrameKey& key, std::vector<SendFrame>* sends);
  void gave_up(const FrameKey& key) { under_way_.erase(part_of(key)); }

  int64_t step() const { return step_; }  // of the view's state
  // Whether a state is awaited, and how many of its parts have not come.
  bool awaits() const { return donor_ != 0; }
  size_t missing() const { return missing_.size(); }
  // The awaited state is whole and taken up.
  void taken() { donor_ = 0; }

 private:
  void answer(SessionId joiner, std::vector<SendFrame>* sends) const;

  const std::vector<Part> parts_;
  int64_t step_ = 0;
  std::set<SessionId> owed_;            // members that get the state from this one
  std::map<SessionId, int64_t> asked_;  // for a step that is not this one's: its view is to come
  SessionId donor_ = 0;                 // 0: no state is awaited
  std::set<Part> missing_;
  std::set<Part> under_way_;
};

}  // namespace lockstep
