// The naive device's general ops: what most layers are made of.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <span>
#include <utility>
#include <vector>

#include "host/core/rng.h"
#include "tests/nn/naive_base.h"

namespace lockstep::naive {

// Expressions in double. noise(stream) gives four random words; scalars are the run's.
inline double normal_number(const std::array<uint32_t, 4>& words) {
  const double unit = 1.0 / 16777216.0;  // (0, 1] by 24 bits, as math::normal_of says
  const double radius = std::sqrt(-2 * std::log(uniform_from_bits(words[0]) + unit));
  return radius * std::cos(2 * std::numbers::pi * uniform_from_bits(words[1]));
}

template <class Noise>
double result_of(const Instruction& i, const Doubles& operands, std::span<const float> scalars,
                 const Noise& noise, double a, double b, double c) {
  switch (i.operation) {
    case Operation::operand:
      return operands[static_cast<size_t>(i.a)];
    case Operation::scalar:
      return scalars[static_cast<size_t>(i.a)];
    case Operation::constant:
      return i.value;
    case Operation::uniform:
      return uniform_from_bits(noise(i.a)[0]);
    case Operation::normal:
      return normal_number(noise(i.a));
    case Operation::negate:
      return -a;
    case Operation::absolute:
      return std::abs(a);
    case Operation::sign:
      return a > 0 ? 1 : a < 0 ? -1 : a;
    case Operation::floor:
      return std::floor(a);
    case Operation::square_root:
      return std::sqrt(a);
    case Operation::exp:
      return std::exp(a);
    case Operation::expm1:
      return std::expm1(a);
    case Operation::log:
      return std::log(a);
    case Operation::log1p:
      return std::log1p(a);
    case Operation::tanh:
      return std::tanh(a);
    case Operation::sigmoid:
      return 1 / (1 + std::exp(-a));
    case Operation::erf:
      return std::erf(a);
    case Operation::add:
      return a + b;
    case Operation::subtract:
      return a - b;
    case Operation::multiply:
      return a * b;
    case Operation::divide:
      return a / b;
    case Operation::maximum:
      return a > b ? a : b;
    case Operation::minimum:
      return a < b ? a : b;
    case Operation::power:
      return std::pow(a, b);
    case Operation::greater:
      return a > b ? 1 : 0;
    case Operation::greater_equal:
      return a >= b ? 1 : 0;
    case Operation::equal:
      return a == b ? 1 : 0;
    case Operation::select:
      return a != 0 ? b : c;
  }
  return 0;
}

template <class Noise>
Doubles evaluate(const Expression& expression, const Doubles& operands,
                 std::span<const float> scalars, const Noise& noise) {
  Doubles results;
  for (const Instruction& i : expression.code) {
    const auto value = [&](int index) { return results[static_cast<size_t>(index)]; };
    const int count = argument_count(i.operation);
    results.push_back(result_of(i, operands, scalars, noise, count > 0 ? value(i.a) : 0,
                                count > 1 ? value(i.b) : 0, count > 2 ? value(i.c) : 0));
  }
  Doubles outputs;
  for (const int output : expression.outputs) {
    outputs.push_back(results[static_cast<size_t>(output)]);
  }
  return outputs;
}

class GeneralOps : public OpBase {
 protected:
  using OpBase::OpBase;

  void apply(const InputOp& op) {
    const HostBatch& batch = *context_->batch;
    for (int64_t row = 0; row < rows(); ++row) {
      const int64_t at = context_->first_row + row;
      for (int64_t f = 0; f < op.features; ++f) {
        float value = 1;
        if (op.part == BatchPart::inputs) value = batch.inputs[at * batch.features + op.offset + f];
        if (op.part == BatchPart::targets) {
          value = batch.targets[at * batch.target_features + op.offset + f];
        }
        if (op.part == BatchPart::weights && !batch.weights.empty()) {
          value = batch.weights[at * batch.weight_columns + op.offset + f];
        }
        out(row, op.features)[f] = value;
      }
    }
  }

  // Features of value number `input` of this op are known to its attributes alone.
  void apply(const MapOp& op) {
    for (int64_t row = 0; row < rows(); ++row) {
      for (int64_t f = 0; f < op.features; ++f) {
        Doubles operands;
        for (const MapOperand& operand : op.operands) {
          const int64_t at = operand.broadcast.at(f);
          operands.push_back(operand.input < 0
                                 ? context_->weights[operand.offset + at]
                                 : in(operand.input, row, operand.broadcast.modulus)[at]);
        }
        const Doubles results =
            evaluate(op.expression, operands, std::span(&context_->loss_scale, 1),
                     [&](int stream) { return noise(op, row, f, stream); });
        out(row, op.features)[f] = static_cast<float>(results[0]);
      }
    }
  }

  std::array<uint32_t, 4> noise(const MapOp& op, int64_t row, int64_t f, int stream) const {
    const uint64_t key = derive_key(context_->seed, kNoisePurpose, op.call);
    return philox4x32({static_cast<uint32_t>(op.noise.at(f)),
                       context_->batch->positions[context_->first_row + row], context_->epoch,
                       op.layer + (static_cast<uint32_t>(stream) << 20)},
                      key);
  }

  void apply(const ParameterSumOp& op) {
    reduce(op.offset, [&](int begin, int end) {
      Doubles sums(static_cast<size_t>(op.broadcast.modulus));
      for (int64_t row = begin; row < end; ++row) {
        for (int64_t f = 0; f < op.features; ++f) {
          sums[op.broadcast.at(f)] += in(0, row, op.features)[f];
        }
      }
      return sums;
    });
  }

  void apply(const RowSumOp& op) {
    reduce(op.offset, [&](int begin, int end) {
      Doubles sums(static_cast<size_t>(op.count));
      for (int64_t row = begin; row < end; ++row) {
        for (int64_t i = 0; i < op.count; ++i) sums[i] += in(0, row, op.count)[i];
      }
      return sums;
    });
  }

  // Element `index` of the inputs of one row, laid side by side.
  double side_by_side(const std::vector<int64_t>& features, int64_t row, int64_t index) const {
    int input = 0;
    while (index >= features[static_cast<size_t>(input)]) index -= features[input++];
    return in(input, row, features[static_cast<size_t>(input)])[index];
  }

  void apply(const GatherOp& op) {
    const IndexLists& lists = *op.lists;
    for (int64_t row = 0; row < rows(); ++row) {
      for (int64_t o = 0; o < lists.outputs(); ++o) {
        double result = op.fill;
        for (int64_t k = lists.begin[o]; k < lists.begin[o + 1]; ++k) {
          double x = side_by_side(op.input_features, row, lists.index[k]);
          if (!lists.factor.empty()) x *= lists.factor[k];
          const bool first = k == lists.begin[o];
          const bool sum = op.gathering == Gathering::sum;
          result = first ? x : sum ? result + x : std::max(result, x);
        }
        out(row, lists.outputs())[o] = static_cast<float>(result);
      }
    }
  }

  void apply(const GatherMaximumGradientOp& op) {
    const IndexLists& lists = *op.lists;
    for (int64_t row = 0; row < rows(); ++row) {
      Doubles dx(static_cast<size_t>(lists.inputs));
      const float* x = in(0, row, lists.inputs);
      for (int64_t o = 0; o < lists.outputs(); ++o) {
        std::vector<int64_t> ties;
        for (int64_t k = lists.begin[o]; k < lists.begin[o + 1]; ++k) {
          if (x[lists.index[k]] == in(1, row, lists.outputs())[o]) ties.push_back(lists.index[k]);
        }
        if (!op.split_ties && ties.size() > 1) ties = {ties.front()};
        for (const int64_t i : ties) {
          dx[i] += in(2, row, lists.outputs())[o] / static_cast<double>(ties.size());
        }
      }
      store(dx, row);
    }
  }

  void apply(const MatmulOp& op) {
    for (int64_t row = 0; row < rows(); ++row) {
      Doubles result(static_cast<size_t>(op.features));
      const float* x = in(0, row, op.x_features);
      const float* z = in(1, row, op.z_features);
      for (int64_t b = 0; b < op.batches; ++b) {
        for (int64_t m = 0; m < op.rows; ++m) {
          for (int64_t n = 0; n < op.columns; ++n) {
            double sum = 0;
            for (int64_t k = 0; k < op.inner; ++k) {
              sum += double{x[b * op.x.batch + m * op.x.row + k * op.x.column]} *
                     z[b * op.z.batch + k * op.z.row + n * op.z.column];
            }
            result[b * op.out.batch + m * op.out.row + n * op.out.column] = sum;
          }
        }
      }
      store(result, row);
    }
  }

  void apply(const EmbeddingOp& op) {
    const int64_t features = op.length * op.units;
    if (op.pass == Pass::forward) {
      for (int64_t row = 0; row < rows(); ++row) {
        for (int64_t f = 0; f < features; ++f) {
          const float word = in(0, row, op.length)[f / op.units];
          const bool known = word >= 0 && word < static_cast<float>(op.vocabulary);
          const int64_t at = known ? static_cast<int64_t>(word) * op.units + f % op.units : 0;
          out(row, features)[f] = known ? context_->weights[op.offset + at] : std::nanf("");
        }
      }
      return;
    }
    reduce(op.offset, [&](int begin, int end) {
      Doubles sums(static_cast<size_t>(op.vocabulary * op.units));
      for (int64_t row = begin; row < end; ++row) {
        for (int64_t f = 0; f < features; ++f) {
          const auto word = static_cast<int64_t>(in(0, row, op.length)[f / op.units]);
          sums[word * op.units + f % op.units] += in(1, row, features)[f];
        }
      }
      return sums;
    });
  }

  // The rows of each partition, and its number in the group.
  template <class Visit>
  void for_each_partition(const Visit& visit) const {
    int begin = 0;
    for (size_t p = 0; p < group_.rows.size(); ++p) {
      if (group_.rows[p] > 0) visit(p, begin, begin + group_.rows[p]);
      begin += group_.rows[p];
    }
  }

  double normalized(const BatchNormOp& op, int64_t p, int64_t row, int64_t f) const {
    const int64_t channels = op.channel.modulus;
    const int64_t c = op.channel.at(f);
    const int mean = op.pass == Pass::forward ? desc_.outputs[1] : desc_.inputs[2];
    const int deviation = op.pass == Pass::forward ? desc_.outputs[2] : desc_.inputs[3];
    return (double{in(0, row, op.features)[f]} - values_[mean][p * channels + c]) *
           values_[deviation][p * channels + c];
  }

  void apply(const BatchNormOp& op) {
    if (op.pass == Pass::forward) {
      normalize(op);
    } else {
      denormalize(op);
    }
  }

  void normalize(const BatchNormOp& op) {
    const int64_t channels = op.channel.modulus;
    std::vector<Doubles> moments(group_.rows.size(), Doubles(static_cast<size_t>(2 * channels)));
    for_each_partition([&](size_t p, int begin, int end) {
      const double n = static_cast<double>((end - begin) * op.features / channels);
      Doubles& sums = moments[p];
      for (int64_t row = begin; row < end; ++row) {
        for (int64_t f = 0; f < op.features; ++f) {
          sums[op.channel.at(f)] += in(0, row, op.features)[f] / n;
        }
      }
      for (int64_t row = begin; row < end; ++row) {
        for (int64_t f = 0; f < op.features; ++f) {
          const int64_t c = op.channel.at(f);
          const double d = in(0, row, op.features)[f] - sums[c];
          sums[channels + c] += d * d / n;
        }
      }
      for (int64_t c = 0; c < channels; ++c) {
        values_[desc_.outputs[1]][p * channels + c] = static_cast<float>(sums[c]);
        values_[desc_.outputs[2]][p * channels + c] =
            static_cast<float>(1 / std::sqrt(sums[channels + c] + op.epsilon));
      }
      for (int64_t row = begin; row < end; ++row) {
        for (int64_t f = 0; f < op.features; ++f) {
          const int64_t c = op.channel.at(f);
          double y = normalized(op, p, row, f);
          if (op.gamma_offset >= 0) y *= context_->weights[op.gamma_offset + c];
          if (op.beta_offset >= 0) y += context_->weights[op.beta_offset + c];
          out(row, op.features)[f] = static_cast<float>(y);
        }
      }
    });
    if (op.mean_offset < 0) return;
    reduce(op.mean_offset, [&](int begin, int end) {
      Doubles weighted;
      for_each_partition([&](size_t p, int first, int) {
        if (first != begin) return;
        for (const double moment : moments[p]) weighted.push_back(moment * (end - begin));
      });
      return weighted;
    });
  }

  // Ioffe and Szegedy (2015), with s1 = sum of dy and s2 = sum of dy * x^:
  // dx = gamma * deviation * (dy - s1 / n - x^ * s2 / n).
  Doubles gradient_sums(const BatchNormOp& op, size_t p, int begin, int end) const {
    const int64_t channels = op.channel.modulus;
    Doubles sums(static_cast<size_t>(2 * channels));
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t f = 0; f < op.features; ++f) {
        const double dy = in(1, row, op.features)[f];
        sums[op.channel.at(f)] += dy;
        sums[channels + op.channel.at(f)] += dy * normalized(op, static_cast<int64_t>(p), row, f);
      }
    }
    return sums;
  }

  void denormalize(const BatchNormOp& op) {
    const int64_t channels = op.channel.modulus;
    for_each_partition([&](size_t p, int begin, int end) {
      const Doubles sums = gradient_sums(op, p, begin, end);
      const double n = static_cast<double>((end - begin) * op.features / channels);
      for (int64_t row = begin; row < end; ++row) {
        Doubles dx(static_cast<size_t>(op.features));
        for (int64_t f = 0; f < op.features; ++f) {
          const int64_t c = op.channel.at(f);
          const double gamma = op.gamma_offset < 0 ? 1 : context_->weights[op.gamma_offset + c];
          const double deviation = values_[desc_.inputs[3]][p * channels + c];
          dx[f] = gamma * deviation *
                  (in(1, row, op.features)[f] - sums[c] / n -
                   normalized(op, static_cast<int64_t>(p), row, f) * sums[channels + c] / n);
        }
        store(dx, row);
      }
    });
    const auto reduce_half = [&](int64_t offset, int64_t half) {
      if (offset < 0) return;
      reduce(offset, [&](int begin, int end) {
        Doubles sums;
        for_each_partition([&](size_t p, int first, int) {
          if (first == begin) sums = gradient_sums(op, p, begin, end);
        });
        return Doubles(sums.begin() + half * channels, sums.begin() + (half + 1) * channels);
      });
    };
    reduce_half(op.beta_gradient, 0);
    reduce_half(op.gamma_gradient, 1);
  }
};

}  // namespace lockstep::naive
