// Who is a member, who computes what from which step on, who owns which slice. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "host/core/partitions.h"

namespace lockstep {

// Unique over the life of a job: term * kSessionsPerTerm + a counter.
using SessionId = int64_t;
inline constexpr int64_t kSessionsPerTerm = 1'000'000;

struct Member {
  SessionId session = 0;
  std::string name;
  std::string address;
  PartitionRange partitions;  // empty: a spare, which holds the state and owns nothing
  // What it computes of the view's first step where that was begun under an earlier view.
  std::vector<PartitionRange> carried;
  int64_t step = -1;  // where it stands: first_step, first_step - 1, or -1: it gets the state
  bool operator==(const Member&) const = default;
};

// A durable state, or the initial one.
struct StateRef {
  int64_t step = 0;
  std::string object;  // "": the initial state, which each node makes by itself
  uint64_t digest = 0;
  int64_t bytes = 0;
  bool operator==(const StateRef&) const = default;
};

struct View {
  int number = 0;
  int64_t first_step = 0;  // all steps before it are applied by some member
  bool carries = false;    // first_step is computed by `carried`, later ones by `partitions`
  // All members start from this state instead of their own.
  bool restores = false;
  StateRef restore;
  int donor = -1;  // index of the member that sends state[first_step] to those without
  int era = 0;     // the number of the last view that restored; frames stay inside one
  // For those that start from a state that they are given: the epochs that were decided before it,
  // and the learning rate that holds since (EpochDecision::learning_rate).
  int64_t decided_epochs = 0;
  std::optional<double> learning_rate;
  std::vector<Member> members;    // in the order of their sessions
  std::vector<int> slice_owners;  // for each slice an index into members
  bool operator==(const View&) const = default;

  int index_of(SessionId session) const;  // -1: not a member
};

// What a member computes of a step: sorted, disjoint.
std::vector<PartitionRange> assigned_partitions(const View& view, int member, int64_t step);

// One of those who may become members.
struct Candidate {
  SessionId session = 0;
  std::string name;
  std::string address;
  int64_t step = -1;  // as Member::step: -1 has no state
  bool begun = false;
  int64_t since = -1;  // as Standing::since
  bool works = true;   // false: it is leaving and gets no partitions
};

struct ViewRequest {
  int number = 0;
  int partitions = 1;
  int slices = 1;
  // Where all start if no candidate has a state, or if `restore` asks for it.
  StateRef durable;
  bool restore = false;
  std::vector<Candidate> candidates;  // in the order of their sessions, at least one that works
};

// The next view, but for what its members must know of decisions. The first step is the furthest
// that a candidate has reached. Where it was begun, its holders keep what they have and only what
// the lost members held is dealt out.
View make_view(const View& previous, const ViewRequest& request);

// How long, in milliseconds, members may keep another one waiting for `step` without anything of it
// coming, before they are accused: some may still be computing, as long as this node did and more
// (`compute_ms`), or load their state of `state_bytes`. Who is dead is noticed sooner, by its
// lease.
int64_t patience_ms(const View& view, int64_t step, int64_t compute_ms, int64_t state_bytes);

// Partitions of `view`'s carried step that members got from lost ones: what is computed again.
int partitions_dealt(const View& previous, const View& view);

}  // namespace lockstep
