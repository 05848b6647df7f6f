#include "host/cluster/transfer_machine.h"

#include "host/core/planted.h"

namespace lockstep {

bool TransferMachine::gives(const View& view, SessionId self) {
  return !view.restores && view.donor >= 0 && view.donor == view.index_of(self);
}

void TransferMachine::adopt(const View& view, SessionId self, std::vector<SendFrame>* sends) {
  owed_.clear();
  missing_.clear();
  under_way_.clear();
  donor_ = 0;
  step_ = view.first_step;
  const auto asked = std::exchange(asked_, {});
  if (gives(view, self)) {
    for (const Member& member : view.members) {
      if (member.step < 0) owed_.insert(member.session);
    }
    for (const SessionId joiner : owed_) {
      const auto question = asked.find(joiner);
      const bool is_asked = question != asked.end() && question->second == step_;
      if (is_asked || planted(Bug::state_unasked)) answer(joiner, sends);
    }
  } else if (!view.restores && view.donor >= 0 && view.members[view.index_of(self)].step < 0) {
    donor_ = view.members[view.donor].session;
    missing_.insert(parts_.begin(), parts_.end());
  }
  ask_again(sends);
}

void TransferMachine::connected(SessionId member, std::vector<SendFrame>* sends) {
  if (member == donor_) ask_again(sends);
  if (planted(Bug::state_unasked) && owed_.contains(member)) answer(member, sends);
}

void TransferMachine::ask_again(std::vector<SendFrame>* sends) {
  if (missing_.empty() || !under_way_.empty() || planted(Bug::state_unasked)) return;
  sends->push_back({donor_, {FrameKind::want_state, step_, 0, {}}});
}

bool TransferMachine::offer(SessionId from, const FrameKey& key) {
  if (key.kind == FrameKind::want_state) return true;
  if (from != donor_ || key.step != step_ || !missing_.contains(part_of(key))) return false;
  return under_way_.insert(part_of(key)).second;
}

void TransferMachine::arrived(SessionId from, const FrameKey& key, std::vector<SendFrame>* sends) {
  if (key.kind == FrameKind::state) {
    under_way_.erase(part_of(key));
    missing_.erase(part_of(key));
  } else if (key.step == step_ && owed_.contains(from)) {
    answer(from, sends);
  } else {
    asked_[from] = key.step;
  }
}

void TransferMachine::answer(SessionId joiner, std::vector<SendFrame>* sends) const {
  for (const Part& part : parts_) sends->push_back({joiner, key_of(part, step_)});
}

}  // namespace lockstep
