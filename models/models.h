// C++ builders of the models that Lockstep knows by name.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/nn/model.h"

namespace lockstep {

std::vector<std::string> model_names();

// One of model_names() for inputs of this shape (height, width, channels). Refuses an
// unknown name, and a shape for which a layer has no room.
Result<std::unique_ptr<Model>> build_model(const std::string& name, const Shape& input_shape,
                                           int64_t classes);

// Three 3x3 convolutions and two dense layers: the CNN of the seed article.
std::unique_ptr<Model> seed_cnn(const Shape& input_shape, int64_t classes);

// Two hidden dense layers of 256 and 128.
std::unique_ptr<Model> mlp(const Shape& input_shape, int64_t classes);

// LeNet-5 (LeCun et al., 1998) with relu, max pooling and, before the last layer, dropout.
std::unique_ptr<Model> lenet(const Shape& input_shape, int64_t classes, double dropout_rate);

// For small images, and for large ones.
std::unique_ptr<Model> resnet20(const Shape& input_shape, int64_t classes);
std::unique_ptr<Model> resnet50(const Shape& input_shape, int64_t classes);

}  // namespace lockstep
