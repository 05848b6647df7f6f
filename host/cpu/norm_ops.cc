#include <algorithm>
#include <cmath>
#include <vector>

#include "host/core/check.h"
#include "host/cpu/lane_sums.h"
#include "host/cpu/prepared_ops.h"

namespace lockstep::cpu {
namespace {

ChannelShape channel_shape(int64_t features, const Broadcast& channel) {
  LOCKSTEP_CHECK(features % (channel.divisor * channel.modulus) == 0);
  return {.features = features,
          .divisor = channel.divisor,
          .channels = channel.modulus,
          .terms = features / channel.modulus};
}

class SumOp : public CpuOp {
 public:
  SumOp(const OpSetting& setting, const ParameterSumOp& op)
      : setting_(setting),
        op_(op),
        shape_(channel_shape(op.features, op.broadcast)),
        totals_(*setting.kernels, setting.group, shape_.channels),
        sums_(allocate_floats(totals_.lane_floats())) {}

  void run(const RunContext& context, std::span<float* const> values) override {
    LOCKSTEP_CHECK(context.roots.size() == setting_.group.roots.size());
    ChannelSumArgs args;
    args.shape = shape_;
    args.sums = sums_.get();
    for (int64_t block = 0; block < setting_.row_blocks(); ++block) {
      args.x = setting_.input(0, values) + block * shape_.features * setting_.kernels->lanes;
      setting_.kernels->channel_sums(args);
      totals_.add(block, sums_.get());
    }
    for (size_t i = 0; i < context.roots.size(); ++i) {
      const int root = static_cast<int>(i);
      if (!totals_.present(root)) continue;
      std::copy_n(totals_.root(root), shape_.channels, context.roots[i] + op_.offset);
    }
  }

 private:
  OpSetting setting_;
  ParameterSumOp op_;
  ChannelShape shape_;
  LaneSums totals_;
  Memory sums_;
};

// What both passes of a batch normalization need: numbers of each partition and channel, and the
// same as tables [channel][V] for the rows of a block.
class NormBase : public CpuOp {
 protected:
  NormBase(const OpSetting& setting, const BatchNormOp& op, int tables)
      : setting_(setting),
        op_(op),
        shape_(channel_shape(op.features, op.channel)),
        tree_(make_tree_plan(setting.group)),
        stride_((shape_.channels + 7) / 8 * 8),
        tables_(allocate_floats(tables * stride_ * setting.kernels->lanes)),
        table_partitions_(static_cast<size_t>(tables), kMixed),
        lane_rows_(static_cast<size_t>(setting.kernels->lanes)) {
    for (size_t p = 0; p < setting.group.rows.size(); ++p) {
      row_partitions_.insert(row_partitions_.end(), static_cast<size_t>(setting.group.rows[p]),
                             static_cast<int64_t>(p));
    }
  }

  int64_t lanes() const { return setting_.kernels->lanes; }
  int64_t partitions() const { return static_cast<int64_t>(setting_.group.rows.size()); }
  int rows_of(int64_t p) const { return setting_.group.rows[static_cast<size_t>(p)]; }
  // Terms of a channel in a partition.
  float terms_of(int64_t p) const { return static_cast<float>(rows_of(p) * shape_.terms); }
  int64_t block_offset(int64_t block) const { return block * shape_.features * lanes(); }

  Memory partition_memory(int numbers = 1) const {
    return allocate_floats(partitions() * numbers * stride_);
  }

  // Call before the numbers of a run are asked for.
  void forget_tables() { std::fill(table_partitions_.begin(), table_partitions_.end(), kMixed); }

  // Table i of a row block: `numbers`, always the same of a run, of each row's partition.
  const float* table(int i, const float* numbers, int64_t block) {
    float* out = tables_.get() + i * stride_ * lanes();
    const int64_t end = std::min((block + 1) * lanes(), setting_.rows());
    const int64_t partition = row_partitions_[static_cast<size_t>(block * lanes())];
    const bool mixed = row_partitions_[static_cast<size_t>(end - 1)] != partition;
    int64_t& made_for = table_partitions_[static_cast<size_t>(i)];
    if (!mixed && made_for == partition) return out;
    made_for = mixed ? kMixed : partition;
    for (int64_t lane = 0; lane < lanes(); ++lane) {
      const int64_t row = std::min(block * lanes() + lane, end - 1);
      lane_rows_[static_cast<size_t>(lane)] =
          numbers + row_partitions_[static_cast<size_t>(row)] * stride_;
    }
    setting_.kernels->spread(lane_rows_.data(), shape_.channels, out);
    return out;
  }

  // Numbers of each partition, summed to the roots at `offset`.
  void reduce(const RunContext& context, const float* numbers, int64_t offset) const {
    LOCKSTEP_CHECK(context.roots.size() == setting_.group.roots.size());
    std::vector<float*> roots;
    for (float* root : context.roots) roots.push_back(root + offset);
    tree_sums(tree_, numbers, stride_, shape_.channels, roots);
  }

  static constexpr int64_t kMixed = -1;

  OpSetting setting_;
  BatchNormOp op_;
  ChannelShape shape_;
  TreePlan tree_;
  int64_t stride_;  // floats of a partition's numbers: channels, rounded up to 8
  Memory tables_;
  std::vector<int64_t> row_partitions_;
  std::vector<int64_t> table_partitions_;  // of whose rows each table is, or kMixed
  std::vector<const float*> lane_rows_;
};

class NormForwardOp : public NormBase {
 public:
  NormForwardOp(const OpSetting& setting, const BatchNormOp& op)
      : NormBase(setting, op, 3),
        totals_(*setting.kernels, single_partitions(setting.group), shape_.channels),
        sums_(allocate_floats(setting.row_blocks() * totals_.lane_floats())),
        squares_(allocate_floats(setting.row_blocks() * totals_.lane_floats())),
        mean_(partition_memory()),
        scale_(partition_memory()),
        shift_(partition_memory()),
        weighted_(partition_memory()) {}

  void run(const RunContext& context, std::span<float* const> values) override {
    const float* x = setting_.input(0, values);
    forget_tables();
    find_means(x);
    copy_out(mean_.get(), setting_.output(1, values));
    if (op_.mean_offset >= 0) reduce_weighted(context, mean_.get(), op_.mean_offset);
    find_variances();
    // scale_ holds the variances.
    if (op_.mean_offset >= 0) {
      reduce_weighted(context, scale_.get(), op_.mean_offset + shape_.channels);
    }
    find_scales(context, setting_.output(2, values));
    NormalizeArgs args;
    args.shape = shape_;
    for (int64_t block = 0; block < setting_.row_blocks(); ++block) {
      args.x = x + block_offset(block);
      args.y = setting_.output(0, values) + block_offset(block);
      args.mean = table(0, mean_.get(), block);
      args.scale = table(1, scale_.get(), block);
      args.shift = table(2, shift_.get(), block);
      setting_.kernels->normalize(args);
    }
  }

 private:
  ChannelSumArgs sum_args(int64_t block) const {
    ChannelSumArgs args;
    args.shape = shape_;
    args.sums = sums_.get() + block * totals_.lane_floats();
    args.second = squares_.get() + block * totals_.lane_floats();
    return args;
  }

  void divide_totals(float* to) const {
    for (int64_t p = 0; p < partitions(); ++p) {
      const float* total = totals_.root(static_cast<int>(p));
      for (int64_t c = 0; rows_of(p) > 0 && c < shape_.channels; ++c) {
        to[p * stride_ + c] = total[c] / terms_of(p);
      }
    }
  }

  void find_means(const float* x) {
    for (int64_t block = 0; block < setting_.row_blocks(); ++block) {
      ChannelSumArgs args = sum_args(block);
      args.x = x + block_offset(block);
      setting_.kernels->channel_moments(args);
      totals_.add(block, args.sums);
    }
    divide_totals(mean_.get());
  }

  void find_variances() {
    for (int64_t block = 0; block < setting_.row_blocks(); ++block) {
      ChannelSumArgs args = sum_args(block);
      args.mean = table(0, mean_.get(), block);
      setting_.kernels->move_moments(args);
      totals_.add(block, args.second);
    }
    divide_totals(scale_.get());
  }

  void reduce_weighted(const RunContext& context, const float* numbers, int64_t offset) {
    for (int64_t p = 0; p < partitions(); ++p) {
      const float rows = static_cast<float>(rows_of(p));
      for (int64_t c = 0; c < shape_.channels; ++c) {
        weighted_[p * stride_ + c] = rows * numbers[p * stride_ + c];
      }
    }
    reduce(context, weighted_.get(), offset);
  }

  // Makes scales of the variances.
  void find_scales(const RunContext& context, float* deviations) {
    for (int64_t p = 0; p < partitions(); ++p) {
      for (int64_t c = 0; rows_of(p) > 0 && c < shape_.channels; ++c) {
        float& scale = scale_[p * stride_ + c];
        const float deviation = 1 / std::sqrt(scale + op_.epsilon);
        deviations[p * shape_.channels + c] = deviation;
        scale =
            op_.gamma_offset < 0 ? deviation : deviation * context.weights[op_.gamma_offset + c];
        if (op_.beta_offset >= 0) {
          shift_[p * stride_ + c] = context.weights[op_.beta_offset + c];
        }
      }
    }
  }

  void copy_out(const float* numbers, float* to) const {
    for (int64_t p = 0; p < partitions(); ++p) {
      if (rows_of(p) == 0) continue;
      std::copy_n(numbers + p * stride_, shape_.channels, to + p * shape_.channels);
    }
  }

  LaneSums totals_;
  Memory sums_, squares_;                   // of each row block [channel][V]
  Memory mean_, scale_, shift_, weighted_;  // of each partition
};

class NormGradientOp : public NormBase {
 public:
  NormGradientOp(const OpSetting& setting, const BatchNormOp& op)
      : NormBase(setting, op, 4),
        dy_totals_(*setting.kernels, single_partitions(setting.group), shape_.channels),
        x_totals_(*setting.kernels, single_partitions(setting.group), shape_.channels),
        sums_(allocate_floats(dy_totals_.lane_floats())),
        products_(allocate_floats(dy_totals_.lane_floats())),
        mean_(partition_memory()),
        scale_(partition_memory()),
        a_(partition_memory()),
        b_(partition_memory()),
        gamma_(partition_memory()) {}

  void run(const RunContext& context, std::span<float* const> values) override {
    const float* x = setting_.input(0, values);
    const float* dy = setting_.input(1, values);
    const float* mean = setting_.input(2, values);
    forget_tables();
    for (int64_t p = 0; p < partitions(); ++p) {
      std::copy_n(mean + p * shape_.channels, shape_.channels, mean_.get() + p * stride_);
    }
    sum_up(x, dy);
    find_factors(context, setting_.input(3, values));
    if (op_.beta_gradient >= 0) reduce(context, dy_totals_.root(0), op_.beta_gradient);
    if (op_.gamma_gradient >= 0) reduce(context, gamma_.get(), op_.gamma_gradient);
    const float* mask = setting_.relu_mask(values);
    NormalizeGradientArgs args;
    args.shape = shape_;
    for (int64_t block = 0; block < setting_.row_blocks(); ++block) {
      args.x = x + block_offset(block);
      args.dy = dy + block_offset(block);
      args.dx = setting_.output(values) + block_offset(block);
      if (mask != nullptr) args.mask = mask + block_offset(block);
      args.mean = table(0, mean_.get(), block);
      args.scale = table(1, scale_.get(), block);
      args.a = table(2, a_.get(), block);
      args.b = table(3, b_.get(), block);
      setting_.kernels->normalize_gradient(args);
    }
  }

 private:
  void sum_up(const float* x, const float* dy) {
    ChannelSumArgs args;
    args.shape = shape_;
    args.sums = sums_.get();
    args.second = products_.get();
    for (int64_t block = 0; block < setting_.row_blocks(); ++block) {
      args.x = x + block_offset(block);
      args.dy = dy + block_offset(block);
      args.mean = table(0, mean_.get(), block);
      setting_.kernels->channel_gradients(args);
      dy_totals_.add(block, sums_.get());
      x_totals_.add(block, products_.get());
    }
  }

  void find_factors(const RunContext& context, const float* deviations) {
    for (int64_t p = 0; p < partitions(); ++p) {
      if (rows_of(p) == 0) continue;
      const float* dy_total = dy_totals_.root(static_cast<int>(p));
      const float* x_total = x_totals_.root(static_cast<int>(p));
      for (int64_t c = 0; c < shape_.channels; ++c) {
        const float deviation = deviations[p * shape_.channels + c];
        const float gamma = op_.gamma_offset < 0 ? 1 : context.weights[op_.gamma_offset + c];
        const int64_t at = p * stride_ + c;
        gamma_[at] = deviation * x_total[c];
        scale_[at] = deviation * gamma;
        a_[at] = dy_total[c] / terms_of(p);
        b_[at] = deviation * gamma_[at] / terms_of(p);
      }
    }
  }

  LaneSums dy_totals_, x_totals_;
  Memory sums_, products_;               // of a row block [channel][V]
  Memory mean_, scale_, a_, b_, gamma_;  // of each partition
};

}  // namespace

std::unique_ptr<CpuOp> prepare_batch_norm(const OpSetting& setting, const BatchNormOp& op) {
  LOCKSTEP_CHECK(op.pass != Pass::weight_gradient);
  if (op.pass == Pass::forward) return std::make_unique<NormForwardOp>(setting, op);
  return std::make_unique<NormGradientOp>(setting, op);
}
std::unique_ptr<CpuOp> prepare_sum(const OpSetting& setting, const ParameterSumOp& op) {
  return std::make_unique<SumOp>(setting, op);
}

}  // namespace lockstep::cpu
