// How the gradients of a node's devices become one where the devices are linked: of each bucket,
// each gets its share of all their roots and adds it in the order of the tree; for the update, all
// get all shares. In a job that is not exact, on a node that is alone, the links add.
#include <algorithm>

#include "host/runtime/device_buckets.h"
#include "host/runtime/replica.h"

namespace lockstep {
namespace {

int64_t count_of(const FlatRange& range) { return range.end - range.begin; }

}  // namespace

int64_t Replica::share_size(const FlatRange& bucket) const {
  return count_of(bucket) / team_->size();
}

// The last ones may be short or empty.
FlatRange Replica::share_of(const FlatRange& bucket, int index) const {
  const int64_t size = share_size(bucket);
  const int64_t begin = std::min(training_.flat_size, bucket.begin + size * index);
  return {begin, std::min(begin + size, training_.flat_size)};
}

// Memory for what the others send. Taken before anything is under way: that may wait for the GPU.
Status Replica::prepare_links(int index) {
  Device& device = team_->device(index);
  const auto& own = round_roots_[static_cast<size_t>(index)];
  if (links_add()) {
    if (!own.empty()) return {};
    const std::vector<float> zeros(static_cast<size_t>(training_.flat_size));
    return device.copy_to_device(zeros.data(), training_.flat_size,
                                 device_gradients_[static_cast<size_t>(index)]->data());
  }
  int64_t foreign = -std::ssize(own), largest = 0;
  for (int peer = 0; peer < team_->size(); ++peer) {
    foreign += std::ssize(round_roots_[static_cast<size_t>(peer)]);
  }
  for (const FlatRange& bucket : buckets_) largest = std::max(largest, share_size(bucket));
  auto& memory = link_memory_[static_cast<size_t>(index)];
  const int64_t bytes = foreign * largest * 4;
  if (bytes == 0 || (memory != nullptr && memory->bytes() >= bytes)) return {};
  LOCKSTEP_ASSIGN(memory, device.allocate(bytes));
  return {};
}

// This device's share of all roots of the round.
Status Replica::gather_pieces(int index, const FlatRange& bucket, std::vector<TreePiece>* pieces) {
  const FlatRange mine = share_of(bucket, index);
  std::vector<DeviceLink::Transfer> sends;
  std::vector<DeviceLink::Transfer> receives;
  const auto& memory = link_memory_[static_cast<size_t>(index)];
  for (int peer = 0; peer < team_->size(); ++peer) {
    if (peer == index) {
      for (const RoundRoot& root : round_roots_[static_cast<size_t>(peer)]) {
        pieces->push_back({root.subtree, root.memory.device + mine.begin});
      }
      continue;
    }
    const FlatRange theirs = share_of(bucket, peer);
    for (const RoundRoot& root : round_roots_[static_cast<size_t>(index)]) {
      if (!theirs.empty()) {
        sends.push_back({peer, root.memory.device + theirs.begin, count_of(theirs)});
      }
    }
    for (const RoundRoot& root : round_roots_[static_cast<size_t>(peer)]) {
      if (mine.empty()) continue;
      float* place = memory->data() + static_cast<int64_t>(receives.size()) * share_size(bucket);
      receives.push_back({peer, place, count_of(mine)});
      pieces->push_back({root.subtree, place});
    }
  }
  return team_->link(index)->exchange(sends, receives);
}

// This device's roots, then all devices' sums by the link: the whole bucket on every device.
Status Replica::reduce_by_link(int index, const FlatRange& bucket) {
  const int64_t count = std::min(bucket.end, training_.flat_size) - bucket.begin;
  float* sum = device_gradients_[static_cast<size_t>(index)]->data() + bucket.begin;
  std::vector<TreePiece> pieces;
  for (const RoundRoot& root : round_roots_[static_cast<size_t>(index)]) {
    pieces.push_back({root.subtree, root.memory.device + bucket.begin});
  }
  if (!pieces.empty()) {  // else prepare_links() has put zeros there
    LOCKSTEP_RETURN_IF_ERROR(
        team_->device(index).sum(sum_terms(pieces, root_subtree(job_.partitions)), count, sum));
  }
  return team_->link(index)->all_reduce(sum, count);
}

// On a node that is alone, all shares come to every device. Else this device's share of the node's
// roots goes to the host.
Status Replica::reduce_share(int index, const FlatRange& bucket) {
  Device& device = team_->device(index);
  std::vector<TreePiece> pieces;
  LOCKSTEP_RETURN_IF_ERROR(gather_pieces(index, bucket, &pieces));
  const FlatRange mine = share_of(bucket, index);
  float* const gradient = device_gradients_[static_cast<size_t>(index)]->data();
  if (!round_on_host_) {
    if (!mine.empty()) {
      LOCKSTEP_RETURN_IF_ERROR(device.sum(sum_terms(pieces, root_subtree(job_.partitions)),
                                          count_of(mine), gradient + mine.begin));
    }
    return team_->link(index)->all_gather(gradient + bucket.begin, share_size(bucket));
  }
  for (const RoundRoot& root : round_roots_.back()) {
    if (mine.empty()) continue;
    LOCKSTEP_RETURN_IF_ERROR(
        device.sum(sum_terms(pieces, root.subtree), count_of(mine), gradient + mine.begin));
    LOCKSTEP_RETURN_IF_ERROR(device.start_copy_to_host(gradient + mine.begin, count_of(mine),
                                                       root.memory.host + mine.begin));
  }
  return {};
}

// The whole gradient on every device: as the buckets left it there, or of `reduced` in the host's
// memory, of which each device reads its share only.
Status Replica::spread_gradient(int index, const float* reduced) {
  if (reduced != nullptr) {
    const FlatRange padded = padded_flat(training_, sharers());
    float* const gradient = device_gradients_[static_cast<size_t>(index)]->data();
    const FlatRange mine = share_of(padded, index);
    if (!mine.empty()) {
      LOCKSTEP_RETURN_IF_ERROR(team_->device(index).copy_to_device(
          reduced + mine.begin, count_of(mine), gradient + mine.begin));
    }
    LOCKSTEP_RETURN_IF_ERROR(team_->link(index)->all_gather(gradient, share_size(padded)));
  }
  return team_->link(index)->finish();
}

}  // namespace lockstep
