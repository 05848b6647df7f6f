// Naive forward passes and gradients of one row, in double precision.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "host/device/ops.h"

namespace lockstep::cpu_test {

using Doubles = std::vector<double>;

inline Doubles to_doubles(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

inline double dot(const Doubles& a, const Doubles& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

struct Gradients {
  Doubles x, weights;  // weights: flat, as the parameters
};

// Calls visit(input index, kernel index, output index) for every product of a convolution.
template <class Visit>
void visit_conv(const Conv2dOp& op, Visit visit) {
  for (int y = 0; y < op.out_height; ++y) {
    for (int x = 0; x < op.out_width; ++x) {
      for (int kh = 0; kh < op.kernel_height; ++kh) {
        for (int kw = 0; kw < op.kernel_width; ++kw) {
          const int iy = y * op.stride_height + kh * op.dilation_height - op.pad_top;
          const int ix = x * op.stride_width + kw * op.dilation_width - op.pad_left;
          if (iy < 0 || iy >= op.in_height || ix < 0 || ix >= op.in_width) continue;
          const int ins = op.group_inputs();
          for (int in = 0; in < ins; ++in) {
            for (int out = 0; out < op.out_channels; ++out) {
              const int channel = out / op.group_outputs() * ins + in;
              visit(static_cast<size_t>((iy * op.in_width + ix) * op.in_channels + channel),
                    static_cast<size_t>(op.kernel_offset) +
                        static_cast<size_t>(
                            ((kh * op.kernel_width + kw) * ins + in) * op.out_channels + out),
                    static_cast<size_t>((y * op.out_width + x) * op.out_channels + out));
            }
          }
        }
      }
    }
  }
}

inline Doubles conv_forward(const Conv2dOp& op, const Doubles& x, const Doubles& weights) {
  Doubles y(static_cast<size_t>(op.out_height) * op.out_width * op.out_channels);
  visit_conv(op, [&](size_t i, size_t k, size_t o) { y[o] += x[i] * weights[k]; });
  for (size_t o = 0; o < y.size(); ++o) {
    if (op.bias_offset >= 0) {
      y[o] += weights[static_cast<size_t>(op.bias_offset) + o % op.out_channels];
    }
    if (op.activation == Activation::relu && y[o] < 0) y[o] = 0;
  }
  return y;
}

// Of a convolution without activation; x may be empty (then only the gradient for x).
inline Gradients conv_gradients(const Conv2dOp& op, const Doubles& x, const Doubles& dy,
                                const Doubles& weights) {
  Gradients result;
  result.x.resize(static_cast<size_t>(op.in_height) * op.in_width * op.in_channels);
  result.weights.resize(weights.size());
  visit_conv(op, [&](size_t i, size_t k, size_t o) {
    result.x[i] += dy[o] * weights[k];
    if (!x.empty()) result.weights[k] += dy[o] * x[i];
  });
  for (size_t o = 0; o < dy.size() && op.bias_offset >= 0; ++o) {
    result.weights[static_cast<size_t>(op.bias_offset) + o % op.out_channels] += dy[o];
  }
  return result;
}

inline size_t dense_index(const DenseOp& op, int64_t in, int64_t out) {
  return static_cast<size_t>(op.kernel_offset + in * op.out_features + out);
}

inline Doubles dense_forward(const DenseOp& op, const Doubles& x, const Doubles& weights) {
  Doubles y(static_cast<size_t>(op.out_features));
  for (int64_t out = 0; out < op.out_features; ++out) {
    double sum = op.bias_offset < 0 ? 0 : weights[static_cast<size_t>(op.bias_offset + out)];
    for (int64_t in = 0; in < op.in_features; ++in) {
      sum += x[static_cast<size_t>(in)] * weights[dense_index(op, in, out)];
    }
    y[static_cast<size_t>(out)] = op.activation == Activation::relu && sum < 0 ? 0 : sum;
  }
  return y;
}

inline Gradients dense_gradients(const DenseOp& op, const Doubles& x, const Doubles& dy,
                                 const Doubles& weights) {
  Gradients result;
  result.x.resize(static_cast<size_t>(op.in_features));
  result.weights.resize(weights.size());
  for (int64_t in = 0; in < op.in_features; ++in) {
    for (int64_t out = 0; out < op.out_features; ++out) {
      const size_t at = dense_index(op, in, out);
      result.x[static_cast<size_t>(in)] += weights[at] * dy[static_cast<size_t>(out)];
      if (!x.empty()) {
        result.weights[at] += x[static_cast<size_t>(in)] * dy[static_cast<size_t>(out)];
      }
    }
  }
  for (int64_t out = 0; out < op.out_features && op.bias_offset >= 0; ++out) {
    result.weights[static_cast<size_t>(op.bias_offset + out)] += dy[static_cast<size_t>(out)];
  }
  return result;
}

// For each output entry the index of its (first) maximum.
inline std::vector<size_t> pool_maxima(const MaxPool2dOp& op, const Doubles& x) {
  std::vector<size_t> result;
  for (int y = 0; y < op.out_height; ++y) {
    for (int column = 0; column < op.out_width; ++column) {
      for (int c = 0; c < op.channels; ++c) {
        double best = -std::numeric_limits<double>::infinity();
        size_t at = 0;
        for (int i = 0; i < op.pool_height * op.pool_width; ++i) {
          const int iy = y * op.stride_height - op.pad_top + i / op.pool_width;
          const int ix = column * op.stride_width - op.pad_left + i % op.pool_width;
          if (iy < 0 || iy >= op.in_height || ix < 0 || ix >= op.in_width) continue;
          const size_t here = static_cast<size_t>((iy * op.in_width + ix) * op.channels + c);
          if (x[here] > best) best = x[here], at = here;
        }
        result.push_back(at);
      }
    }
  }
  return result;
}

inline Doubles pool_forward(const MaxPool2dOp& op, const Doubles& x) {
  Doubles y;
  for (const size_t at : pool_maxima(op, x)) y.push_back(x[at]);
  return y;
}

inline Doubles pool_gradient(const MaxPool2dOp& op, const Doubles& x, const Doubles& dy) {
  Doubles dx(x.size());
  const std::vector<size_t> maxima = pool_maxima(op, x);
  for (size_t i = 0; i < maxima.size(); ++i) dx[maxima[i]] += dy[i];
  return dx;
}

inline Doubles softmax(const Doubles& z) {
  double top = z[0], sum = 0;
  for (const double value : z) top = std::max(top, value);
  for (const double value : z) sum += std::exp(value - top);
  Doubles p;
  for (const double value : z) p.push_back(std::exp(value - top) / sum);
  return p;
}

// `loss` reads *at; `gradient` is what is claimed of its derivative there.
template <class Loss>
void expect_finite_differences(Loss loss, Doubles* at, const Doubles& gradient,
                               double tolerance = 1e-7) {
  ASSERT_EQ(at->size(), gradient.size());
  for (size_t i = 0; i < at->size(); ++i) {
    const double here = (*at)[i], step = 1e-5;
    (*at)[i] = here + step;
    const double above = loss();
    (*at)[i] = here - step;
    const double below = loss();
    (*at)[i] = here;
    ASSERT_NEAR((above - below) / (2 * step), gradient[i], tolerance) << "element " << i;
  }
}

}  // namespace lockstep::cpu_test
