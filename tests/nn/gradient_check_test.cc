// Training graphs of tiny models against finite differences of a forward pass in double that
// shares nothing with them but the formulas of the layers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "host/core/rng.h"
#include "host/nn/model.h"
#include "tests/nn/test_devices.h"
#include "tests/nn/training_step.h"

namespace lockstep {
namespace {

constexpr double kStep = 1e-5;
constexpr double kGradientTolerance = 2e-5;  // of the tensor's largest gradient
constexpr uint64_t kSeed = 7;                // those of TrainingStep
constexpr uint32_t kEpoch = 3;

struct Image {
  int height = 0, width = 0, channels = 0;
  std::vector<double> data;
  double at(int h, int w, int c) const { return data[(h * width + w) * channels + c]; }
};

struct Window {
  int size = 1;
  int stride = 1;
  bool same = false;
  int count(int in) const { return same ? (in + stride - 1) / stride : (in - size) / stride + 1; }
  int pad(int in) const { return same ? std::max((count(in) - 1) * stride + size - in, 0) / 2 : 0; }
};

// Takes its kernel and bias from `weights` and moves on.
Image convolve(const Image& x, int filters, Window rows, Window columns, bool relu,
               const double*& weights) {
  Image y{rows.count(x.height), columns.count(x.width), filters, {}};
  const double* bias = weights + rows.size * columns.size * x.channels * filters;
  for (int oh = 0; oh < y.height; ++oh) {
    for (int ow = 0; ow < y.width; ++ow) {
      for (int f = 0; f < filters; ++f) {
        double sum = bias[f];
        for (int kh = 0; kh < rows.size; ++kh) {
          for (int kw = 0; kw < columns.size; ++kw) {
            const int ih = oh * rows.stride + kh - rows.pad(x.height);
            const int iw = ow * columns.stride + kw - columns.pad(x.width);
            if (ih < 0 || iw < 0 || ih >= x.height || iw >= x.width) continue;
            for (int c = 0; c < x.channels; ++c) {
              sum += x.at(ih, iw, c) *
                     weights[((kh * columns.size + kw) * x.channels + c) * filters + f];
            }
          }
        }
        y.data.push_back(relu ? std::max(sum, 0.0) : sum);
      }
    }
  }
  weights = bias + filters;
  return y;
}

Image pool(const Image& x, Window rows, Window columns) {
  Image y{rows.count(x.height), columns.count(x.width), x.channels, {}};
  for (int oh = 0; oh < y.height; ++oh) {
    for (int ow = 0; ow < y.width; ++ow) {
      for (int c = 0; c < x.channels; ++c) {
        double largest = -1e300;
        for (int kh = 0; kh < rows.size; ++kh) {
          for (int kw = 0; kw < columns.size; ++kw) {
            const int ih = oh * rows.stride + kh - rows.pad(x.height);
            const int iw = ow * columns.stride + kw - columns.pad(x.width);
            if (ih < 0 || iw < 0 || ih >= x.height || iw >= x.width) continue;
            largest = std::max(largest, x.at(ih, iw, c));
          }
        }
        y.data.push_back(largest);
      }
    }
  }
  return y;
}

void drop(std::vector<double>* x, double rate, uint32_t layer, uint32_t position) {
  const uint64_t key = derive_key(kSeed, kDropoutPurpose, 0);
  for (size_t f = 0; f < x->size(); ++f) {
    const auto words = philox4x32({static_cast<uint32_t>(f / 4), position, kEpoch, layer}, key);
    (*x)[f] =
        uniform_from_bits(words[f % 4]) >= static_cast<float>(rate) ? (*x)[f] / (1 - rate) : 0.0;
  }
}

std::vector<double> multiply(const std::vector<double>& x, int units, bool relu,
                             const double*& weights) {
  const double* bias = weights + static_cast<int>(x.size()) * units;
  std::vector<double> y(bias, bias + units);
  for (size_t i = 0; i < x.size(); ++i) {
    for (int u = 0; u < units; ++u) y[u] += x[i] * weights[static_cast<int>(i) * units + u];
  }
  for (double& value : y) value = relu ? std::max(value, 0.0) : value;
  weights = bias + units;
  return y;
}

double cross_entropy(const std::vector<double>& logits, int label) {
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit);
  return std::log(sum) - logits[label];
}

// A model twice: as layers, and as the loss of one row.
struct CheckedModel {
  const char* name;
  Shape input_shape;
  void (*add_layers)(Model* model);
  double (*row_loss)(Image x, const double* weights, uint32_t position, int label);
};

const CheckedModel kOverlapping = {
    "overlapping",
    {7, 6, 2},
    [](Model* model) {
      model
          ->add("Conv2D", {{"filters", 3},
                           {"kernel_size", {3, 2}},
                           {"padding", "same"},
                           {"activation", "relu"}})
          .add("MaxPooling2D", {{"pool_size", 3}, {"strides", {2, 1}}, {"padding", "same"}})
          .add("Conv2D", {{"filters", 4}, {"kernel_size", 2}, {"activation", "relu"}})
          .add("Flatten")
          .add("Dense", {{"units", 5}, {"activation", "relu"}})
          .add("Dropout", {{"rate", 0.25}})
          .add("Dense", {{"units", 3}, {"activation", "softmax"}});
    },
    [](Image x, const double* weights, uint32_t position, int label) {
      x = convolve(x, 3, {3, 1, true}, {2, 1, true}, true, weights);
      x = pool(x, {3, 2, true}, {3, 1, true});
      x = convolve(x, 4, {2, 1, false}, {2, 1, false}, true, weights);
      std::vector<double> y = multiply(x.data, 5, true, weights);
      drop(&y, 0.25, 5, position);
      return cross_entropy(multiply(y, 3, false, weights), label);
    }};

const CheckedModel kStrided = {
    "strided",
    {9, 8, 1},
    [](Model* model) {
      model->add("Dropout", {{"rate", 0.125}})
          .add("Conv2D",
               {{"filters", 3}, {"kernel_size", 3}, {"strides", {2, 1}}, {"activation", "relu"}})
          .add("Conv2D", {{"filters", 5}, {"kernel_size", 3}, {"strides", 2}, {"padding", "same"}})
          .add("MaxPooling2D", {{"pool_size", {2, 1}}})
          .add("Activation", {{"activation", "relu"}})
          .add("Dropout", {{"rate", 0.5}})
          .add("Flatten")
          .add("Dense", {{"units", 4}, {"activation", "relu"}})
          .add("Activation", {{"activation", "softmax"}});
    },
    [](Image x, const double* weights, uint32_t position, int label) {
      drop(&x.data, 0.125, 0, position);
      x = convolve(x, 3, {3, 2, false}, {3, 1, false}, true, weights);
      x = convolve(x, 5, {3, 2, true}, {3, 2, true}, false, weights);
      x = pool(x, {2, 2, false}, {1, 1, false});
      for (double& value : x.data) value = std::max(value, 0.0);
      drop(&x.data, 0.5, 5, position);
      return cross_entropy(multiply(x.data, 4, true, weights), label);
    }};

double mean_loss(const CheckedModel& checked, const HostBatch& batch,
                 const std::vector<double>& weights) {
  const Shape& shape = checked.input_shape;
  double sum = 0;
  for (int row = 0; row < batch.rows; ++row) {
    const auto begin = batch.inputs.begin() + row * batch.features;
    const Image x{static_cast<int>(shape[0]),
                  static_cast<int>(shape[1]),
                  static_cast<int>(shape[2]),
                  {begin, begin + batch.features}};
    sum += checked.row_loss(x, weights.data(), batch.positions[row], batch.labels[row]);
  }
  return sum / batch.rows;
}

void check_gradients(const CheckedModel& checked, Device& device) {
  Model model(checked.name, checked.input_shape);
  checked.add_layers(&model);
  const Graph graph = model.training_graph("sparse_categorical_crossentropy").value();
  std::vector<float> weights = initial_weights(graph, 11);
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] == 0) weights[i] = static_cast<float>(0.2 * made_up_uniform(5, i));  // biases
  }
  const HostBatch batch =
      made_up_batch(6, element_count(checked.input_shape),
                    static_cast<int>(graph.values[graph.outputs[0]].features()));
  TrainingStep step(device, graph);
  step.set_weights(weights);
  const std::vector<float> flat = step.flat(batch, 4);
  std::vector<double> moved(weights.begin(), weights.end());
  EXPECT_NEAR(flat[graph.parameter_count] / static_cast<float>(batch.rows),
              mean_loss(checked, batch, moved), 1e-5);
  for (const Parameter& parameter : graph.parameters) {
    std::vector<double> numeric;
    for (int64_t i = parameter.offset; i < parameter.offset + parameter.count(); ++i) {
      moved[i] = weights[i] + kStep;
      const double above = mean_loss(checked, batch, moved);
      moved[i] = weights[i] - kStep;
      const double below = mean_loss(checked, batch, moved);
      moved[i] = weights[i];
      numeric.push_back((above - below) / (2 * kStep));
    }
    const auto [low, high] = std::minmax_element(numeric.begin(), numeric.end());
    const double largest = std::max(-*low, *high);
    EXPECT_GT(largest, 1e-3) << parameter.layer << "/" << parameter.name;
    for (size_t i = 0; i < numeric.size(); ++i) {
      EXPECT_NEAR(flat[parameter.offset + static_cast<int64_t>(i)], numeric[i],
                  kGradientTolerance * largest)
          << checked.name << " " << parameter.layer << "/" << parameter.name << "[" << i << "]";
    }
  }
}

TEST(GradientCheck, tiny_models_on_every_device) {
  for (const std::string& name : test_device_names()) {
    const auto device = make_test_device(name);
    if (device == nullptr) continue;
    SCOPED_TRACE(name);
    check_gradients(kOverlapping, *device);
    check_gradients(kStrided, *device);
  }
}

}  // namespace
}  // namespace lockstep
