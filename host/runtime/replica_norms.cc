// Norms of whole parameters, for optimizers whose step depends on them. Each node takes them all:
// of fixed blocks, which are added in their order.
#include <algorithm>

#include "host/runtime/replica.h"

namespace lockstep {
namespace {

constexpr int64_t kBlock = 8192;  // elements

struct Block {
  size_t segment = 0;
  int64_t begin = 0, count = 0;
};

}  // namespace

ParameterMemory Replica::memory_of(const Segment& segment, const float* gradient) const {
  ParameterMemory memory{
      gradient + segment.gradient_offset, state_.weights.data() + segment.offset, {}};
  for (size_t i = 0; i < state_.slots.size(); ++i) {
    memory.slots[i] = state_.slots[i].data() + segment.offset;
  }
  return memory;
}

std::vector<Replica::Sums> Replica::sum_over_segments(
    const std::function<Sums(size_t segment, int64_t begin, int64_t count)>& task) {
  std::vector<Block> blocks;
  for (size_t i = 0; i < segments_.size(); ++i) {
    if (segments_[i].role != ParameterRole::trained) continue;
    for (int64_t begin = 0; begin < segments_[i].count; begin += kBlock) {
      blocks.push_back({i, begin, std::min(kBlock, segments_[i].count - begin)});
    }
  }
  std::vector<Sums> parts(blocks.size());
  team_->run([&](int index) {
    const size_t first = blocks.size() * static_cast<size_t>(index) / team_->size();
    const size_t end = blocks.size() * static_cast<size_t>(index + 1) / team_->size();
    for (size_t i = first; i < end; ++i) {
      parts[i] = task(blocks[i].segment, blocks[i].begin, blocks[i].count);
    }
  });
  std::vector<Sums> sums(segments_.size());
  for (size_t i = 0; i < blocks.size(); ++i) {
    for (size_t k = 0; k < 2; ++k) sums[blocks[i].segment][k] += parts[i][k];
  }
  return sums;
}

void Replica::measure_norms(const float* gradient, std::optional<double> learning_rate) {
  if (!optimizer_.reads_norms()) return;
  const int64_t t = job_.optimizer_iterations + state_.step + 1;
  std::vector<StepTerms> terms(segments_.size());
  for (size_t i = 0; i < segments_.size(); ++i) {
    terms[i].learning_rate = learning_rate;
    terms[i].decays = segments_[i].decays;
  }
  if (optimizer_.clips_by_norm()) {
    const auto sums = sum_over_segments([&](size_t i, int64_t begin, int64_t count) -> Sums {
      const ParameterMemory memory = memory_of(segments_[i], gradient).from(begin);
      return {optimizer_.gradient_squares(t, memory, count), 0};
    });
    std::vector<double> squares;
    for (const Sums& sum : sums) squares.push_back(sum[0]);
    const auto scales = optimizer_.gradient_scales(squares);
    for (size_t i = 0; i < segments_.size(); ++i) terms[i].gradient_scale = scales[i];
  }
  if (optimizer_.has_trust()) {
    const auto sums = sum_over_segments([&](size_t i, int64_t begin, int64_t count) {
      const ParameterMemory memory = memory_of(segments_[i], gradient).from(begin);
      return optimizer_.trust_squares(t, terms[i], memory, count);
    });
    for (size_t i = 0; i < segments_.size(); ++i) terms[i].trust = optimizer_.trust_of(sums[i]);
  }
  for (size_t i = 0; i < segments_.size(); ++i) {
    if (segments_[i].role != ParameterRole::trained) continue;
    updates_[i] = optimizer_.update_at(t, terms[i]);
  }
}

}  // namespace lockstep
