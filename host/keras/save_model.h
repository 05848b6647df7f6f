// A model with weights as a file of Keras.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/keras/keras_config.h"
#include "host/keras/model_file.h"
#include "host/keras/weights.h"

namespace lockstep {

struct TrainedModel {
  const Model* model = nullptr;
  const std::vector<Parameter>* parameters = nullptr;
  std::span<const float> weights;  // flat
  std::optional<OptimizerView> optimizer;
  std::optional<CompileSettings> compile;
  // The file that the model was read from. Its config is kept byte for byte, and the optimizer's
  // state is written where that config is compiled with the same optimizer.
  const ModelFile* source = nullptr;
};

// The bytes of a .keras file.
Result<std::string> make_keras_file(const TrainedModel& trained);

// Those of an .h5 file, whole model, which Keras 2 and 3 read. It holds no state of an optimizer:
// Keras 3 does not take it up from there.
Result<std::string> make_legacy_h5(const TrainedModel& trained);

}  // namespace lockstep
