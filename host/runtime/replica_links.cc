// How the gradients of a node's devices become one where the devices are linked: each gets its
// share of all their roots, adds it in the order of the tree, and, for the update, all get all
// shares. In a job that is not exact, on a node that is alone, the links add.
#include <algorithm>

#include "host/runtime/replica.h"

namespace lockstep {
namespace {

constexpr int64_t kShareUnit = 64;  // floats: what kernels read at once, with room

int64_t count_of(const FlatRange& range) { return range.end - range.begin; }

// Share `index`; the last ones may be short or empty.
FlatRange range_of_share(int64_t flat_size, int64_t share, int index) {
  const int64_t begin = std::min(flat_size, share * index);
  return {begin, std::min(begin + share, flat_size)};
}

}  // namespace

int64_t Replica::share_size() const {
  const int64_t even = (training_.flat_size + team_->size() - 1) / team_->size();
  return (even + kShareUnit - 1) / kShareUnit * kShareUnit;
}

Status Replica::reduce_over_links(const Program::ReadyCallback& ready) {
  if (round_on_host_ && round_roots_.back().empty()) return {};  // no rows here
  std::vector<Status> statuses(static_cast<size_t>(team_->size()));
  team_->run([&](int index) { statuses[index] = reduce_share(index, ready); });
  return first_error(statuses);
}

// This device's share of all roots of the round.
Status Replica::gather_pieces(int index, std::vector<TreePiece>* pieces) {
  const int64_t share = share_size();
  const FlatRange mine = range_of_share(training_.flat_size, share, index);
  std::vector<DeviceLink::Transfer> sends;
  std::vector<DeviceLink::Transfer> receives;
  size_t foreign = 0;
  for (int peer = 0; peer < team_->size(); ++peer) {
    if (peer != index) foreign += round_roots_[static_cast<size_t>(peer)].size();
  }
  auto& memory = link_memory_[static_cast<size_t>(index)];
  const int64_t bytes = static_cast<int64_t>(foreign) * share * 4;
  if (bytes > 0 && (memory == nullptr || memory->bytes() < bytes)) {
    LOCKSTEP_ASSIGN(memory, team_->device(index).allocate(bytes));
  }
  for (int peer = 0; peer < team_->size(); ++peer) {
    if (peer == index) {
      for (const RoundRoot& root : round_roots_[static_cast<size_t>(peer)]) {
        pieces->push_back({root.subtree, root.memory.device + mine.begin});
      }
      continue;
    }
    const FlatRange theirs = range_of_share(training_.flat_size, share, peer);
    for (const RoundRoot& root : round_roots_[static_cast<size_t>(index)]) {
      if (!theirs.empty()) {
        sends.push_back({peer, root.memory.device + theirs.begin, count_of(theirs)});
      }
    }
    for (const RoundRoot& root : round_roots_[static_cast<size_t>(peer)]) {
      if (mine.empty()) continue;
      float* place = memory->data() + static_cast<int64_t>(receives.size()) * share;
      receives.push_back({peer, place, count_of(mine)});
      pieces->push_back({root.subtree, place});
    }
  }
  return team_->link(index)->exchange(sends, receives);
}

// This device's roots, then all devices' sums by the link: the whole gradient on every device.
Status Replica::reduce_by_link(int index) {
  Device& device = team_->device(index);
  float* sum = device_gradients_[static_cast<size_t>(index)]->data();
  std::vector<TreePiece> pieces;
  for (const RoundRoot& root : round_roots_[static_cast<size_t>(index)]) {
    pieces.push_back({root.subtree, root.memory.device});
  }
  if (pieces.empty()) {
    const std::vector<float> zeros(static_cast<size_t>(training_.flat_size));
    LOCKSTEP_RETURN_IF_ERROR(device.copy_to_device(zeros.data(), training_.flat_size, sum));
  } else {
    const auto terms = sum_terms(pieces, root_subtree(job_.partitions));
    LOCKSTEP_RETURN_IF_ERROR(device.sum(terms, training_.flat_size, sum));
  }
  return team_->link(index)->all_reduce(sum, training_.flat_size);
}

Status Replica::reduce_share(int index, const Program::ReadyCallback& ready) {
  if (links_add()) return reduce_by_link(index);
  Device& device = team_->device(index);
  std::vector<TreePiece> pieces;
  LOCKSTEP_RETURN_IF_ERROR(gather_pieces(index, &pieces));
  const FlatRange mine = range_of_share(training_.flat_size, share_size(), index);
  if (mine.empty()) return team_->link(index)->finish();
  float* sum = device_gradients_[static_cast<size_t>(index)]->data() + mine.begin;
  if (!round_on_host_) {
    return device.sum(sum_terms(pieces, root_subtree(job_.partitions)), count_of(mine), sum);
  }
  LOCKSTEP_RETURN_IF_ERROR(team_->link(index)->finish());
  for (const RoundRoot& root : round_roots_.back()) {
    LOCKSTEP_RETURN_IF_ERROR(device.sum(sum_terms(pieces, root.subtree), count_of(mine), sum));
    LOCKSTEP_RETURN_IF_ERROR(
        device.copy_to_host(sum, count_of(mine), root.memory.host + mine.begin));
  }
  ready(mine.begin, mine.end);
  return {};
}

// The whole gradient on every device: of the shares that reduce_share() left there, or of `reduced`
// in the host's memory, of which each device reads its share only.
Status Replica::spread_gradient(int index, const float* reduced) {
  if (links_add()) return team_->link(index)->finish();
  const int64_t share = share_size();
  float* gradient = device_gradients_[static_cast<size_t>(index)]->data();
  const FlatRange mine = range_of_share(training_.flat_size, share, index);
  if (reduced != nullptr && !mine.empty()) {
    LOCKSTEP_RETURN_IF_ERROR(team_->device(index).copy_to_device(
        reduced + mine.begin, count_of(mine), gradient + mine.begin));
  }
  LOCKSTEP_RETURN_IF_ERROR(team_->link(index)->all_gather(gradient, share));
  return team_->link(index)->finish();
}

}  // namespace lockstep
