// A device written straight from the op descriptors, to compare others with: row-major values,
// loops in the order of the formulas, sums in double. Slow, and shares no code with any device.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numbers>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "host/core/check.h"
#include "host/core/rng.h"
#include "host/device/device.h"
#include "host/device/flat_sums.h"
#include "tests/nn/naive_general_ops.h"

namespace lockstep::naive {

// One op on one group. `run` picks the overload for the attributes.
class Op : public GeneralOps {
 public:
  Op(OpDesc desc, PartitionGroup group) : GeneralOps(std::move(desc), std::move(group)) {}

  void run(const RunContext& context, std::span<float* const> values) override {
    context_ = &context;
    values_ = values;
    std::visit([this](const auto& op) { apply(op); }, desc_.attributes);
  }

 private:
  using GeneralOps::apply;

  // Calls visit(position in x, position in the kernel, position in y).
  template <class Visit>
  static void for_each_tap(const Conv2dOp& op, const Visit& visit) {
    for (int oh = 0; oh < op.out_height; ++oh) {
      for (int ow = 0; ow < op.out_width; ++ow) {
        for (int kh = 0; kh < op.kernel_height; ++kh) {
          for (int kw = 0; kw < op.kernel_width; ++kw) {
            const int ih = oh * op.stride_height + kh * op.dilation_height - op.pad_top;
            const int iw = ow * op.stride_width + kw * op.dilation_width - op.pad_left;
            if (ih < 0 || ih >= op.in_height || iw < 0 || iw >= op.in_width) continue;
            const int ins = op.in_channels / op.groups, outs = op.out_channels / op.groups;
            for (int c = 0; c < ins; ++c) {
              for (int o = 0; o < op.out_channels; ++o) {
                visit((ih * op.in_width + iw) * op.in_channels + o / outs * ins + c,
                      ((kh * op.kernel_width + kw) * ins + c) * op.out_channels + o,
                      (oh * op.out_width + ow) * op.out_channels + o);
              }
            }
          }
        }
      }
    }
  }

  void apply(const Conv2dOp& op) {
    const int64_t x_size = int64_t{op.in_height} * op.in_width * op.in_channels;
    const int64_t y_size = int64_t{op.out_height} * op.out_width * op.out_channels;
    if (op.pass == Pass::weight_gradient) return convolution_weight_gradient(op, x_size, y_size);
    const float* kernel = context_->weights + op.kernel_offset;
    for (int row = 0; row < rows(); ++row) {
      if (op.pass == Pass::forward) {
        const float* x = in(0, row, x_size);
        Doubles y(static_cast<size_t>(y_size));
        for (int64_t i = 0; i < y_size && op.bias_offset >= 0; ++i) {
          y[i] = context_->weights[op.bias_offset + i % op.out_channels];
        }
        for_each_tap(op, [&](int xi, int ki, int yi) { y[yi] += double{x[xi]} * kernel[ki]; });
        store(y, row, op.activation);
      } else {
        const float* dy = in(0, row, y_size);
        Doubles dx(static_cast<size_t>(x_size));
        for_each_tap(op, [&](int xi, int ki, int yi) { dx[xi] += double{dy[yi]} * kernel[ki]; });
        store(dx, row);
      }
    }
  }

  void convolution_weight_gradient(const Conv2dOp& op, int64_t x_size, int64_t y_size) {
    const int channels = op.out_channels;
    const int64_t kernel_size = op.kernel_size();
    reduce(op.kernel_offset, [&](int begin, int end) {
      Doubles dw(static_cast<size_t>(kernel_size + (op.bias_offset >= 0 ? channels : 0)));
      for (int row = begin; row < end; ++row) {
        const float* x = in(0, row, x_size);
        const float* dy = in(1, row, y_size);
        for_each_tap(op, [&](int xi, int ki, int yi) { dw[ki] += double{x[xi]} * dy[yi]; });
        for (int64_t i = 0; i < y_size && op.bias_offset >= 0; ++i) {
          dw[kernel_size + i % channels] += dy[i];
        }
      }
      return dw;
    });
  }

  void apply(const DenseOp& op) {
    const int64_t in_features = op.in_features;
    const int64_t out_features = op.out_features;
    if (op.pass == Pass::weight_gradient) return dense_weight_gradient(op);
    const float* kernel = context_->weights + op.kernel_offset;
    for (int row = 0; row < rows(); ++row) {
      if (op.pass == Pass::forward) {
        Doubles y(static_cast<size_t>(out_features));
        for (int64_t i = 0; i < in_features; ++i) {
          const double x = in(0, row, in_features)[i];
          for (int64_t o = 0; o < out_features; ++o) y[o] += x * kernel[i * out_features + o];
        }
        for (int64_t o = 0; o < out_features && op.bias_offset >= 0; ++o) {
          y[o] += context_->weights[op.bias_offset + o];
        }
        store(y, row, op.activation);
      } else {
        const float* dy = in(0, row, out_features);
        Doubles dx(static_cast<size_t>(in_features));
        for (int64_t i = 0; i < in_features; ++i) {
          for (int64_t o = 0; o < out_features; ++o) {
            dx[i] += double{dy[o]} * kernel[i * out_features + o];
          }
        }
        store(dx, row);
      }
    }
  }

  void dense_weight_gradient(const DenseOp& op) {
    const int64_t kernel_size = op.in_features * op.out_features;
    reduce(op.kernel_offset, [&](int begin, int end) {
      const int64_t bias_size = op.bias_offset >= 0 ? op.out_features : 0;
      Doubles dw(static_cast<size_t>(kernel_size + bias_size));
      for (int row = begin; row < end; ++row) {
        const float* x = in(0, row, op.in_features);
        const float* dy = in(1, row, op.out_features);
        for (int64_t i = 0; i < op.in_features; ++i) {
          for (int64_t o = 0; o < op.out_features; ++o) {
            dw[i * op.out_features + o] += double{x[i]} * dy[o];
          }
        }
        for (int64_t o = 0; o < bias_size; ++o) dw[kernel_size + o] += dy[o];
      }
      return dw;
    });
  }

  void apply(const MaxPool2dOp& op) {
    const int64_t x_size = int64_t{op.in_height} * op.in_width * op.channels;
    const int64_t y_size = int64_t{op.out_height} * op.out_width * op.channels;
    for (int row = 0; row < rows(); ++row) {
      const float* x = in(0, row, x_size);
      Doubles y(static_cast<size_t>(y_size));
      Doubles dx(static_cast<size_t>(x_size));
      for (int64_t yi = 0; yi < y_size; ++yi) {
        const int64_t largest = largest_in_window(op, x, yi);
        if (op.pass == Pass::forward) y[yi] = x[largest];
        if (op.pass == Pass::data_gradient) dx[largest] += in(2, row, y_size)[yi];
      }
      store(op.pass == Pass::forward ? y : dx, row);
    }
  }

  static int64_t largest_in_window(const MaxPool2dOp& op, const float* x, int64_t yi) {
    const int channel = static_cast<int>(yi % op.channels);
    const int ow = static_cast<int>(yi / op.channels % op.out_width);
    const int oh = static_cast<int>(yi / op.channels / op.out_width);
    int64_t best = -1;
    for (int kh = 0; kh < op.pool_height; ++kh) {
      for (int kw = 0; kw < op.pool_width; ++kw) {
        const int ih = oh * op.stride_height + kh - op.pad_top;
        const int iw = ow * op.stride_width + kw - op.pad_left;
        if (ih < 0 || ih >= op.in_height || iw < 0 || iw >= op.in_width) continue;
        const int64_t xi = (int64_t{ih} * op.in_width + iw) * op.channels + channel;
        if (best < 0 || x[xi] > x[best]) best = xi;
      }
    }
    return best;
  }

  void apply(const DropoutOp& op) {
    const uint64_t key = derive_key(context_->seed, kDropoutPurpose, op.call);
    const double scale = 1.0f / (1.0f - op.rate);
    for (int row = 0; row < rows(); ++row) {
      Doubles y(static_cast<size_t>(op.features));
      for (int64_t f = 0; f < op.features; ++f) {
        const auto words = philox4x32(
            {static_cast<uint32_t>(f / 4), context_->batch->positions[context_->first_row + row],
             context_->epoch, op.layer},
            key);
        const bool kept = uniform_from_bits(words[f % 4]) >= op.rate;
        y[f] = kept ? in(0, row, op.features)[f] * scale : 0;
      }
      store(y, row);
    }
  }

  void apply(const ReluOp& op) {
    for (int row = 0; row < rows(); ++row) {
      const float* y = in(0, row, op.features);
      Doubles result(y, y + op.features);
      for (int64_t f = 0; f < op.features; ++f) {
        if (op.pass == Pass::data_gradient) result[f] = in(1, row, op.features)[f];
        if (!(y[f] > 0)) result[f] = 0;
      }
      store(result, row);
    }
  }

  static Doubles softmax(const float* logits, int64_t classes) {
    const double largest = *std::max_element(logits, logits + classes);
    Doubles result(logits, logits + classes);
    double sum = 0;
    for (double& x : result) sum += x = std::exp(x - largest);
    for (double& x : result) x /= sum;
    return result;
  }

  void apply(const SoftmaxOp& op) {
    for (int row = 0; row < rows(); ++row)
      store(softmax(in(0, row, op.features), op.features), row);
  }

  void apply(const SoftmaxCrossEntropyOp& op) {
    for (int row = 0; row < rows() && !desc_.outputs.empty(); ++row) {
      Doubles gradient = softmax(in(0, row, op.classes), op.classes);
      gradient[context_->batch->labels[context_->first_row + row]] -= 1;
      for (double& g : gradient) g *= context_->loss_scale;
      store(gradient, row);
    }
    reduce(op.metrics_offset, [&](int begin, int end) {
      Doubles metrics(kMetricCount);
      for (int row = begin; row < end; ++row) {
        const float* logits = in(0, row, op.classes);
        const int label = context_->batch->labels[context_->first_row + row];
        metrics[0] -= std::log(softmax(logits, op.classes)[label]);
        metrics[1] += std::max_element(logits, logits + op.classes) - logits == label ? 1 : 0;
      }
      return metrics;
    });
  }
};

// With `separates`, Programs compute each partition by itself, as on a GPU.
class NaiveDevice : public Device {
 public:
  explicit NaiveDevice(bool separates = false) : separates_(separates) {}
  std::string numerics() const override { return "naive"; }
  std::string description() const override { return "the tests' naive device"; }
  bool shares_host_memory() const override { return true; }
  bool separates_partitions() const override { return separates_; }
  void attach_thread() override {}

  int64_t buffer_bytes(int64_t bytes) const override { return bytes; }
  Result<std::unique_ptr<Buffer>> allocate(int64_t bytes) override {
    return std::unique_ptr<Buffer>(new HostBuffer(bytes));
  }
  int64_t value_bytes(int rows, int64_t features) const override {
    return rows * features * int64_t{sizeof(float)};
  }
  int64_t work_bytes(const OpDesc&, const PartitionGroup&) const override { return 0; }
  Status download(const float* value, int rows, int64_t features, float* row_major) override {
    std::copy_n(value, rows * features, row_major);
    return {};
  }
  Result<std::unique_ptr<PreparedOp>> prepare(const OpDesc& op,
                                              const PartitionGroup& group) override {
    return std::unique_ptr<PreparedOp>(new Op(op, group));
  }
  void add(const float* a, const float* b, float* out, int64_t count) override {
    for (int64_t i = 0; i < count; ++i) out[i] = a[i] + b[i];
  }
  Status sum(std::span<const SumTerm> terms, int64_t count, float* out) override {
    std::vector<std::vector<float>> stack;
    for (const SumTerm& term : terms) {
      stack.emplace_back(term.values, term.values + count);
      for (int merge = 0; merge < term.merges; ++merge) {
        std::vector<float> top = std::move(stack.back());
        stack.pop_back();
        add(stack.back().data(), top.data(), stack.back().data(), count);
      }
    }
    LOCKSTEP_CHECK(stack.size() == 1);
    std::copy(stack[0].begin(), stack[0].end(), out);
    return {};
  }
  Status evaluate(const ExpressionUpdate& expression, std::span<const float* const> operands,
                  std::span<float* const> outputs, int64_t count) override {
    for (int64_t i = 0; i < count; ++i) {
      const Doubles results = results_of(expression, operands, i);
      for (size_t k = 0; k < outputs.size(); ++k) outputs[k][i] = static_cast<float>(results[k]);
    }
    return {};
  }
  Status squares(const ExpressionUpdate& expression, std::span<const float* const> operands,
                 int64_t count, double* sums) override {
    const size_t outputs = expression.expression->outputs.size();
    std::fill_n(sums, squares_blocks(count) * static_cast<int64_t>(outputs), 0.0);
    for (int64_t i = 0; i < count; ++i) {
      const Doubles results = results_of(expression, operands, i);
      for (size_t k = 0; k < outputs; ++k) {
        sums[static_cast<size_t>(i / kSquaresBlock) * outputs + k] += results[k] * results[k];
      }
    }
    return {};
  }
  Status sum_axis(const float* x, const AxisSum& sum, int64_t first, int64_t count,
                  float* out) override {
    for (int64_t i = first; i < first + count; ++i) {
      double total = 0;
      for (int64_t k = 0; k < sum.size; ++k) {
        total += x[(i / sum.inner * sum.size + k) * sum.inner + i % sum.inner];
      }
      out[i] = static_cast<float>(total);
    }
    return {};
  }
  Status multiply(const MatmulOp& op, const float* x, const float* z, float* out) override {
    const auto at = [](const MatrixStrides& strides, int64_t batch, int64_t row, int64_t column) {
      return batch * strides.batch + row * strides.row + column * strides.column;
    };
    for (int64_t i = 0; i < op.batches * op.rows * op.columns; ++i) {
      const int64_t b = i / op.columns / op.rows, m = i / op.columns % op.rows, n = i % op.columns;
      double total = 0;
      for (int64_t k = 0; k < op.inner; ++k) {
        total += double{x[at(op.x, b, m, k)]} * z[at(op.z, b, k, n)];
      }
      out[at(op.out, b, m, n)] = static_cast<float>(total);
    }
    return {};
  }
  Status update(const UpdateDesc& desc, const float* gradient, float* weights,
                std::span<float* const> slots, int64_t count, DigestLanes* lanes) override {
    update(desc, gradient, weights, slots, count);
    if (lanes == nullptr) return {};
    return digest(weights, std::vector<const float*>(slots.begin(), slots.end()), count, lanes);
  }
  Status digest(const float* weights, std::span<const float* const> slots, int64_t count,
                DigestLanes* lanes) override {
    std::fill_n(lanes, (count + kDigestBlock - 1) / kDigestBlock, DigestLanes{});
    for (int64_t i = 0; i < count; ++i) {
      uint32_t x = 0;
      for (size_t k = slots.size(); k > 0; --k) {
        x = std::rotl(x, 8) + std::bit_cast<uint32_t>(slots[k - 1][i]);
      }
      x = std::rotl(x, 8) + std::bit_cast<uint32_t>(weights[i]);
      uint32_t& lane = lanes[i / kDigestBlock].values[i % DigestLanes::kCount];
      lane = std::rotl(lane, 16) * kDigestFactor + x;
    }
    return {};
  }

 private:
  void update(const UpdateDesc& desc, const float* gradient, float* weights,
              std::span<float* const> slots, int64_t count) {
    if (const auto* formula = std::get_if<ExpressionUpdate>(&desc)) {
      const ExpressionMemory memory(gradient, weights, slots);
      LOCKSTEP_CHECK(evaluate(*formula, memory.inputs(), memory.results(), count).ok());
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      if (const auto* adam = std::get_if<AdamUpdate>(&desc)) {
        float& m = slots[0][i];
        float& v = slots[1][i];
        m += (gradient[i] - m) * adam->one_minus_beta_1;
        v += (gradient[i] * gradient[i] - v) * adam->one_minus_beta_2;
        weights[i] -= m * adam->alpha / (std::sqrt(v) + adam->epsilon);
        continue;
      }
      if (const auto* average = std::get_if<MovingAverageUpdate>(&desc)) {
        weights[i] = weights[i] * average->momentum +
                     gradient[i] * average->scale * average->one_minus_momentum;
        continue;
      }
      const SgdUpdate& sgd = std::get<SgdUpdate>(desc);
      const float step = -sgd.learning_rate * gradient[i];
      if (slots.empty()) {
        weights[i] += step;
        continue;
      }
      slots[0][i] = sgd.momentum * slots[0][i] + step;
      weights[i] += sgd.nesterov ? sgd.momentum * slots[0][i] + step : slots[0][i];
    }
  }

  static Doubles results_of(const ExpressionUpdate& update, std::span<const float* const> operands,
                            int64_t i) {
    Doubles at;
    for (const float* operand : operands) at.push_back(operand[i]);
    return naive::evaluate(*update.expression, at, update.used_scalars(),
                           [](int) -> std::array<uint32_t, 4> {
                             LOCKSTEP_CHECK(false);
                             return {};
                           });
  }

  const bool separates_;
};

}  // namespace lockstep::naive
