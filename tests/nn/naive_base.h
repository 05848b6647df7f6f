// What the naive device's ops share.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "host/core/check.h"
#include "host/device/device.h"

namespace lockstep::naive {

class HostBuffer : public Buffer {
 public:
  explicit HostBuffer(int64_t bytes)
      : bytes_((bytes + 63) / 64 * 64 + 64),
        data_(static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(bytes_))), &free) {
    // Not zero: a read before the first write shows.
    std::memset(data_.get(), 0xff, static_cast<size_t>(bytes_));
  }
  float* data() override { return data_.get(); }
  int64_t bytes() const override { return bytes_; }

 private:
  int64_t bytes_;
  std::unique_ptr<float, void (*)(void*)> data_;
};

using Doubles = std::vector<double>;

class OpBase : public PreparedOp {
 protected:
  OpBase(OpDesc desc, PartitionGroup group) : desc_(std::move(desc)), group_(std::move(group)) {}

  const float* in(int i, int64_t row, int64_t features) const {
    return values_[desc_.inputs[i]] + row * features;
  }
  float* out(int64_t row, int64_t features) const {
    return values_[desc_.outputs[0]] + row * features;
  }
  int rows() const { return group_.total_rows(); }

  // Rounds a row's result and applies the activation, or the mask of a data gradient.
  void store(const Doubles& sums, int64_t row, Activation activation = Activation::linear) {
    const int64_t features = static_cast<int64_t>(sums.size());
    float* y = out(row, features);
    const float* mask = desc_.relu_mask < 0 ? nullptr : values_[desc_.relu_mask] + row * features;
    for (int64_t f = 0; f < features; ++f) {
      const bool zero =
          (activation == Activation::relu && sums[f] < 0) || (mask != nullptr && !(mask[f] > 0));
      y[f] = zero ? 0.0f : static_cast<float>(sums[f]);
    }
  }

  // Sums in the order of the tree over the partitions: `leaf` gives one partition's numbers.
  using Leaf = std::function<Doubles(int row_begin, int row_end)>;
  bool tree(const Subtree& node, const Leaf& leaf, std::vector<float>* sum) const {
    if (node.level == 0) {
      const int index = node.first - group_.first;
      if (index < 0 || index >= static_cast<int>(group_.rows.size())) return false;
      int begin = 0;
      for (int i = 0; i < index; ++i) begin += group_.rows[i];
      if (group_.rows[index] == 0) return false;
      const Doubles exact = leaf(begin, begin + group_.rows[index]);
      sum->assign(exact.begin(), exact.end());
      return true;
    }
    std::vector<float> right;
    const bool has_left = tree({node.first, node.level - 1}, leaf, sum);
    const int middle = node.first + (1 << (node.level - 1));
    const bool has_right = tree({middle, node.level - 1}, leaf, has_left ? &right : sum);
    if (has_left && has_right) {
      for (size_t i = 0; i < sum->size(); ++i) (*sum)[i] += right[i];
    }
    return has_left || has_right;
  }
  void reduce(int64_t flat_begin, const Leaf& leaf) const {
    for (size_t r = 0; r < group_.roots.size(); ++r) {
      std::vector<float> sum;
      if (!tree(group_.roots[r], leaf, &sum)) continue;
      std::copy(sum.begin(), sum.end(), context_->roots[r] + flat_begin);
    }
  }

  const OpDesc desc_;
  const PartitionGroup group_;
  const RunContext* context_ = nullptr;
  std::span<float* const> values_;
};

}  // namespace lockstep::naive
