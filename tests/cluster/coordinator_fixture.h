// A coordinator of a small job, and what it asked for: two steps an epoch, eight partitions of four
// rows. Sessions are session_id(1), session_id(2), … in the order of entering.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "host/cluster/coordinator.h"

namespace lockstep {

inline SessionId session_id(int number, int64_t term = 1) {
  return term * kSessionsPerTerm + number;
}

// Those of term 1.
inline constexpr SessionId kFirst = kSessionsPerTerm + 1;
inline constexpr SessionId kSecond = kSessionsPerTerm + 2;
inline constexpr SessionId kThird = kSessionsPerTerm + 3;

class CoordinatorTest : public testing::Test {
 protected:
  CoordinatorTest() {
    facts_.job = "{}";
    facts_.max_nodes = 8;
    facts_.partitions = 8;
    facts_.batch_size = 32;
    facts_.train_rows = 64;
    facts_.epochs = 2;
    facts_.slices = 4;
    facts_.metric_sums = 3;
    facts_.numerics = "cpu-avx2";
    facts_.data_digest = "data";
    facts_.validation_digest = "validation";
    facts_.version = "1";
    facts_.checkpoint_every_ms = 0;
  }

  void begin(const RecoveredJob& recovered = {}, bool may_return = false, int64_t term = 1) {
    coordinator_.emplace(facts_, term, recovered, may_return, now_);
  }
  SessionId hello(const std::string& name = "n") {
    return coordinator_->hello({kWireVersion, "1", name}, now_)->session;
  }
  static JoinRequest request(SessionId session) {
    JoinRequest join;
    join.session = session;
    join.address = "127.0.0.1:1";
    join.numerics = "cpu-avx2";
    join.data_digest = "data";
    join.validation_digest = "validation";
    join.canary = {{"conv2d", 7}, {"dense", 8}};
    return join;
  }
  Status join(const JoinRequest& join) { return coordinator_->join(join, now_, &actions_); }
  SessionId enter(const std::string& name = "n") {
    const SessionId session = hello(name);
    EXPECT_TRUE(join(request(session)).ok());
    return session;
  }
  // Says where a node stands, for the change that is under way.
  void held(SessionId session, const Standing& standing) {
    const HeldReport report{session, coordinator_->view().number + 1, standing};
    ASSERT_TRUE(coordinator_->held(report, now_, &actions_).ok());
  }
  // It has applied all steps before `step` itself.
  Standing standing(int64_t step, bool begun = false) const {
    return {coordinator_->view().number, step, begun, 0, 0};
  }
  // This many nodes in training under view 1, and nothing in actions_.
  void train(int nodes) {
    facts_.start_nodes = nodes;
    begin();
    for (int i = 0; i < nodes; ++i) enter();
    for (int i = 1; i <= nodes; ++i) held(session_id(i), {});
    ASSERT_EQ(coordinator_->phase(), Coordinator::Phase::training);
    ASSERT_EQ(coordinator_->view().number, 1);
    actions_.clear();
  }
  void die(SessionId session) {
    ASSERT_TRUE(coordinator_->fault({session, 0, 0, "it died"}, now_, &actions_).ok());
  }

  // With what the view assigns to it.
  StepReport step_report(SessionId session, int64_t step, uint64_t digest = 7) const {
    const View& view = coordinator_->view();
    StepReport report{session, view.era, step, {1.5, 20, 32}, digest, {}};
    for (const auto range : assigned_partitions(view, view.index_of(session), step)) {
      for (int p = range.begin; p < range.end; ++p) report.partitions.push_back({p, 4, {}});
    }
    return report;
  }
  Status report(const StepReport& report) {
    return coordinator_->step_applied(report, now_, &actions_);
  }
  void applied(SessionId session, int64_t step, uint64_t digest = 7) {
    ASSERT_TRUE(report(step_report(session, step, digest)).ok());
  }
  void applied_by_all(int64_t step) {
    const std::vector<Member> members = coordinator_->view().members;
    for (const Member& member : members) applied(member.session, step);
  }
  EpochReport epoch_report(SessionId session, int64_t epoch) const {
    return {session, coordinator_->view().era, epoch, 2 * epoch + 2, {128.0, 32, 64}, {}};
  }
  Status measured(const EpochReport& report) {
    return coordinator_->epoch_measured(report, &actions_);
  }
  // All members apply the epoch's steps, and one measures it.
  void finish_epoch(int64_t epoch) {
    applied_by_all(2 * epoch);
    applied_by_all(2 * epoch + 1);
    ASSERT_TRUE(measured(epoch_report(coordinator_->view().members[0].session, epoch)).ok());
  }
  static StateRef state(int64_t step, uint64_t digest = 7) { return {step, "object", digest, 100}; }
  void stored(const StateRef& state, SessionId session = session_id(1)) {
    ASSERT_TRUE(coordinator_->snapshot_stored(session, state, &actions_).ok());
  }
  // The commit that was asked for is done.
  void commit_durable() {
    const auto commits = taken<CommitCheckpoint>();
    ASSERT_EQ(commits.size(), 1u);
    const CommitCheckpoint& commit = commits[0];
    coordinator_->checkpoint_durable({commit.state, "manifest", commit.samples_consumed},
                                     &actions_);
  }

  template <class T>
  std::vector<T> taken() const {
    std::vector<T> result;
    for (const CoordinatorAction& action : actions_) {
      if (const T* match = std::get_if<T>(&action)) result.push_back(*match);
    }
    return result;
  }
  // Of one kind, with their receivers.
  template <class T>
  std::vector<std::pair<SessionId, T>> events() const {
    std::vector<std::pair<SessionId, T>> result;
    for (const SendEvent& sent : taken<SendEvent>()) {
      if (const T* match = std::get_if<T>(&sent.event)) result.emplace_back(sent.session, *match);
    }
    return result;
  }
  template <class T>
  std::vector<SessionId> receivers() const {
    std::vector<SessionId> result;
    for (const auto& [session, event] : events<T>()) result.push_back(session);
    return result;
  }
  // Where in actions_ the first record or event of a kind is; past the end: nowhere.
  template <class T>
  size_t first_record() const {
    for (size_t i = 0; i < actions_.size(); ++i) {
      const auto* append = std::get_if<AppendRecord>(&actions_[i]);
      if (append != nullptr && std::holds_alternative<T>(append->record)) return i;
    }
    return actions_.size();
  }
  template <class T>
  size_t first_event() const {
    for (size_t i = 0; i < actions_.size(); ++i) {
      const auto* sent = std::get_if<SendEvent>(&actions_[i]);
      if (sent != nullptr && std::holds_alternative<T>(sent->event)) return i;
    }
    return actions_.size();
  }

  ClusterFacts facts_;
  std::optional<Coordinator> coordinator_;
  CoordinatorActions actions_;
  int64_t now_ = 1000;
};

}  // namespace lockstep
