// Keras' layers on an emulated GPU: what the general kernels compute, in many orders.
#include "tests/emulated_cuda/runtime.h"
#include "tests/emulated_cuda/toy.h"
#include "tests/nn/layer_golden.h"

namespace lockstep {
namespace {

using emulated::Machine;

class EmulatedLayers : public testing::TestWithParam<std::string> {};

TEST_P(EmulatedLayers, compute_what_keras_computes) {
  LOCKSTEP_CUDNN_OR_SKIP();
  for (const uint64_t seed : {1, 2}) {
    SCOPED_TRACE(seed);
    Machine machine({.seed = seed});
    const auto gpu = emulated::make_gpu();
    golden::LayerCase(GetParam(), *gpu).check();
  }
}

INSTANTIATE_TEST_SUITE_P(layers, EmulatedLayers, testing::ValuesIn(golden::case_names()),
                         [](const auto& name) { return name.param; });

}  // namespace
}  // namespace lockstep
