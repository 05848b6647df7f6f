// Deliberate defects, for the tests of the tests: each must be noticed when it is switched on. In
// every other build planted() is false at compile time and nothing of them is left.
#pragma once

#include <array>
#include <string_view>

#ifdef LOCKSTEP_PLANTED_BUGS
#include <atomic>
#endif

namespace lockstep {

enum class Bug {
  none,
  no_term_check,           // sessions of two terms are taken for each other
  no_session_check,        // frames of nodes that are not members are taken
  stale_view,              // a view is adopted although a newer one is known
  stale_era,               // what was said before a restore counts after it
  sum_by_arrival,          // the tree follows the order in which pieces came
  tree_from_zero,          // a sum starts from +0
  mean_over_nodes,         // the divisor is the number of members
  sample_counted_twice,    // a partition counts again when a new view repeats it
  gradient_dropped_early,  // g[t] goes when this node has applied it
  update_before_all,       // a step is applied before all slices are there
  apply_before_all_begun,  // and before every member has begun it
  child_beside_ancestor,   // a sum and a part of it are added
  lease_by_anything,       // any message extends a lease
  epoch_forgotten,         // an epoch's metrics do not reach the log
  checkpoint_before_object,
  reply_before_sync,     // what stands behind a record happens before it is durable
  empty_as_zeros,        // a partition without rows takes part
  hold_ignored,          // a step is applied after the promise not to
  dropout_by_local_row,  // dropout depends on where a row is computed
  norm_of_slice,         // the norm is taken over a node's own slices
  decided_before_kept,   // the best state may be left behind before it is durable
  rate_too_early,        // a decided learning rate holds for what is left of the epoch
  rate_not_given,        // who is given a state does not learn the rate that holds there
  interval_exceeded,     // a node trains on although nothing of an interval is durable
  state_unasked,         // a donor sends the state when it has a view, whoever has it
  begun_unsaid,  // a piece that is gone when its turn comes does not say that its step began
  // Of the disk: no simulated cluster knows them, the tests of checkpoint/ do.
  rename_unsynced,    // a file has its name before its folder is durable
  torn_record_taken,  // a record whose checksum is wrong counts
  fsync_retried,      // what a failed fsync lost is taken for durable
  count
};
inline constexpr Bug kFirstDiskBug = Bug::rename_unsynced;

inline constexpr std::array<std::string_view, static_cast<size_t>(Bug::count)> kBugNames = {
    "none",
    "no_term_check",
    "no_session_check",
    "stale_view",
    "stale_era",
    "sum_by_arrival",
    "tree_from_zero",
    "mean_over_nodes",
    "sample_counted_twice",
    "gradient_dropped_early",
    "update_before_all",
    "apply_before_all_begun",
    "child_beside_ancestor",
    "lease_by_anything",
    "epoch_forgotten",
    "checkpoint_before_object",
    "reply_before_sync",
    "empty_as_zeros",
    "hold_ignored",
    "dropout_by_local_row",
    "norm_of_slice",
    "decided_before_kept",
    "rate_too_early",
    "rate_not_given",
    "interval_exceeded",
    "state_unasked",
    "begun_unsaid",
    "rename_unsynced",
    "torn_record_taken",
    "fsync_retried",
};

#ifdef LOCKSTEP_PLANTED_BUGS
inline std::atomic<Bug> planted_bug = Bug::none;
inline bool planted(Bug bug) { return planted_bug.load(std::memory_order_relaxed) == bug; }
#else
constexpr bool planted(Bug) { return false; }
#endif

}  // namespace lockstep
