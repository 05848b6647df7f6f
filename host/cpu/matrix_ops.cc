#include <algorithm>
#include <limits>
#include <vector>

#include "host/core/check.h"
#include "host/cpu/prepared_ops.h"
#include "host/cpu/tree_plan.h"

namespace lockstep::cpu {
namespace {

class CpuMatmulOp : public CpuOp {
 public:
  CpuMatmulOp(const OpSetting& setting, const MatmulOp& op) : setting_(setting) {
    LOCKSTEP_CHECK(op.batches * op.rows * op.columns == op.features);
    args_.batches = op.batches;
    args_.rows = op.rows;
    args_.inner = op.inner;
    args_.columns = op.columns;
    set(op.x, args_.x_strides);
    set(op.z, args_.z_strides);
    set(op.out, args_.out_strides);
    args_.x_features = op.x_features;
    args_.z_features = op.z_features;
    args_.features = op.features;
    args_.row_blocks = setting.row_blocks();
  }

  void run(const RunContext&, std::span<float* const> values) override {
    MatmulArgs args = args_;
    args.x = setting_.input(0, values);
    args.z = setting_.input(1, values);
    args.out = setting_.output(values);
    setting_.kernels->matmul(args);
    setting_.mask_output(values, args.features);
  }

 private:
  static void set(const MatrixStrides& from, int64_t (&to)[3]) {
    to[0] = from.batch;
    to[1] = from.row;
    to[2] = from.column;
  }

  OpSetting setting_;
  MatmulArgs args_;
};

class CpuEmbeddingOp : public CpuOp {
 public:
  CpuEmbeddingOp(const OpSetting& setting, const EmbeddingOp& op)
      : setting_(setting),
        op_(op),
        unknown_(static_cast<size_t>(op.units), std::numeric_limits<float>::quiet_NaN()),
        nothing_(static_cast<size_t>(op.units)) {}

  void run(const RunContext& context, std::span<float* const> values) override {
    EmbeddingArgs args;
    args.x = setting_.input(0, values);
    args.table = context.weights + op_.offset;
    args.unknown = unknown_.data();
    args.nothing = nothing_.data();
    args.y = setting_.output(values);
    args.length = op_.length;
    args.vocabulary = op_.vocabulary;
    args.units = op_.units;
    args.rows = setting_.rows();
    setting_.kernels->embedding(args);
  }

 private:
  OpSetting setting_;
  EmbeddingOp op_;
  std::vector<float> unknown_, nothing_;
};

// Few words occur: each word's gradients are summed up the tree by themselves, and the others are
// zero. That is the sum of dense gradients to the bit, since none of them is -0.
class EmbeddingGradientOp : public CpuOp {
 public:
  EmbeddingGradientOp(const OpSetting& setting, const EmbeddingOp& op)
      : setting_(setting),
        op_(op),
        tree_(make_tree_plan(setting.group)),
        x_(static_cast<size_t>(setting.rows() * op.length)),
        stack_(static_cast<size_t>((tree_.stack_depth + 1) * op.units)),
        first_(static_cast<size_t>(op.vocabulary), -1),
        last_(static_cast<size_t>(op.vocabulary), -1),
        next_(x_.size(), -1) {}

  int64_t work_floats() const override { return setting_.rows() * op_.length * op_.units; }
  void run(const RunContext& context, std::span<float* const> values) override {
    LOCKSTEP_CHECK(context.roots.size() == tree_.root_present.size());
    dy_ = static_cast<float*>(context.work);
    const int64_t rows = setting_.rows();
    setting_.kernels->lanes_to_rows(setting_.input(0, values), rows, op_.length, x_.data());
    setting_.kernels->lanes_to_rows(setting_.input(1, values), rows, op_.length * op_.units, dy_);
    for (size_t i = 0; i < context.roots.size(); ++i) {
      if (!tree_.root_present[i]) continue;
      std::fill_n(context.roots[i] + op_.offset, op_.vocabulary * op_.units, 0.0f);
    }
    find_words();
    for (const int64_t word : words_) sum_word(context, word);
  }

 private:
  static size_t at(int64_t i) { return static_cast<size_t>(i); }

  // Lists the places of each word in order.
  void find_words() {
    for (const int64_t word : words_) first_[at(word)] = -1;
    words_.clear();
    for (int64_t place = 0; place < static_cast<int64_t>(x_.size()); ++place) {
      const float x = x_[at(place)];
      if (!(x >= 0 && x < static_cast<float>(op_.vocabulary))) continue;
      const int64_t word = static_cast<int64_t>(x);
      next_[at(place)] = -1;
      if (first_[at(word)] < 0) {
        first_[at(word)] = place;
        words_.push_back(word);
      } else {
        next_[at(last_[at(word)])] = place;
      }
      last_[at(word)] = place;
    }
  }

  void sum_word(const RunContext& context, int64_t word) {
    const int64_t units = op_.units;
    int64_t place = first_[at(word)];
    present_.assign(at(tree_.stack_depth) + 1, false);
    for (const LeafStep& leaf : tree_.leaves) {
      const int64_t begin = leaf.first_row * op_.length;
      const int64_t end = begin + leaf.rows * op_.length;
      while (place >= 0 && place < begin) place = next_[at(place)];  // of no root
      int64_t depth = leaf.depth;
      float* sum = stack_.data() + depth * units;
      present_[at(depth)] = place >= 0 && place < end;
      std::fill_n(sum, units, 0.0f);
      for (; place >= 0 && place < end; place = next_[at(place)]) {
        const float* dy = dy_ + place * units;
        for (int64_t u = 0; u < units; ++u) sum[u] += dy[u];
      }
      for (int merge = 0; merge < leaf.merges; ++merge, --depth) merge_down(depth);
      if (leaf.root < 0 || !present_[at(depth)]) continue;
      std::copy_n(stack_.data() + depth * units, units,
                  context.roots[at(leaf.root)] + op_.offset + word * units);
    }
  }

  // Adds the entry at `depth` to the one below.
  void merge_down(int64_t depth) {
    float* right = stack_.data() + depth * op_.units;
    float* left = right - op_.units;
    if (!present_[at(depth)]) return;
    if (present_[at(depth - 1)]) {
      for (int64_t u = 0; u < op_.units; ++u) left[u] += right[u];
    } else {
      std::copy_n(right, op_.units, left);
      present_[at(depth - 1)] = true;
    }
  }

  OpSetting setting_;
  EmbeddingOp op_;
  TreePlan tree_;
  std::vector<float> x_;  // rows
  float* dy_ = nullptr;   // rows
  std::vector<float> stack_;
  std::vector<bool> present_;          // of the stack's entries
  std::vector<int64_t> first_, last_;  // places of each word; -1: none
  std::vector<int64_t> next_;          // place of the same word
  std::vector<int64_t> words_;         // that occur
};

}  // namespace

std::unique_ptr<CpuOp> prepare_matmul(const OpSetting& setting, const MatmulOp& op) {
  return std::make_unique<CpuMatmulOp>(setting, op);
}
std::unique_ptr<CpuOp> prepare_embedding(const OpSetting& setting, const EmbeddingOp& op) {
  LOCKSTEP_CHECK(op.pass != Pass::data_gradient);
  if (op.pass == Pass::forward) return std::make_unique<CpuEmbeddingOp>(setting, op);
  return std::make_unique<EmbeddingGradientOp>(setting, op);
}

}  // namespace lockstep::cpu
