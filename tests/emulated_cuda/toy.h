// Toy models and steps for tests of the emulated device.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cuda/cuda_device.h"
#include "host/core/check.h"
#include "host/nn/model.h"
#include "models/models.h"
#include "tests/emulated_cuda/vendor.h"
#include "tests/nn/training_step.h"

namespace lockstep::emulated {

inline constexpr const char* kToyLoss = "sparse_categorical_crossentropy";
inline constexpr int kToyClasses = 7;

// Every kind of op, uneven shapes. Needs cuDNN: the second convolution has too many channels for
// our own kernels; it is padded behind only.
inline Graph toy_graph() {
  Model model("toy", {8, 8, 2});
  model
      .add("Conv2D",
           {{"filters", 5}, {"kernel_size", 3}, {"padding", "same"}, {"activation", "relu"}})
      .add("MaxPooling2D", {{"pool_size", 2}})
      .add("Dropout", {{"rate", 0.25}})
      .add("Conv2D", {{"filters", 40}, {"kernel_size", 2}, {"padding", "same"}})
      .add("Activation", {{"activation", "relu"}})
      .add("Flatten")
      .add("Dense", {{"units", 19}, {"activation", "relu"}})
      .add("Dropout", {{"rate", 0.5}})
      .add("Dense", {{"units", kToyClasses}, {"activation", "softmax"}});
  return model.training_graph(kToyLoss).value();
}

// All but convolutions.
inline Graph toy_dense_graph() {
  Model model("toy", {8, 8, 2});
  model.add("MaxPooling2D", {{"pool_size", 2}})
      .add("Flatten")
      .add("Dense", {{"units", 12}, {"activation", "relu"}})
      .add("Dropout", {{"rate", 0.5}})
      .add("Dense", {{"units", kToyClasses}, {"activation", "softmax"}});
  return model.training_graph(kToyLoss).value();
}

inline HostBatch toy_batch(int rows) { return made_up_batch(rows, 8 * 8 * 2, kToyClasses); }

inline std::unique_ptr<Device> make_gpu(int index = 0) {
  auto device = make_cuda_device(index, "cuda-fp32");
  LOCKSTEP_CHECK(device.ok());
  return std::move(device).value();
}

}  // namespace lockstep::emulated

// In a test that needs convolutions.
#define LOCKSTEP_CUDNN_OR_SKIP()                           \
  if (!::lockstep::emulated::missing_cudnn().empty()) {    \
    GTEST_SKIP() << ::lockstep::emulated::missing_cudnn(); \
  }                                                        \
  static_assert(true)
