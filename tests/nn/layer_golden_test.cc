// Every layer against Keras.
#include "tests/nn/layer_golden.h"
#include "tests/nn/test_devices.h"

namespace lockstep {
namespace {

class LayerGolden : public testing::TestWithParam<std::tuple<std::string, std::string>> {};

TEST_P(LayerGolden, computes_what_keras_computes) {
  const auto& [name, device_name] = GetParam();
  const auto device = make_test_device(device_name);
  if (device == nullptr) GTEST_SKIP() << "this machine has no " << device_name;
  golden::LayerCase(name, *device).check();
}

std::string layer_case_name(const testing::TestParamInfo<LayerGolden::ParamType>& info) {
  std::string name = std::get<0>(info.param) + "_on_" + std::get<1>(info.param);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(layers, LayerGolden,
                         testing::Combine(testing::ValuesIn(golden::case_names()),
                                          testing::ValuesIn(test_device_names())),
                         layer_case_name);

}  // namespace
}  // namespace lockstep
