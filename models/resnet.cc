// He et al., "Deep residual learning for image recognition" (2015), as Keras writes it.
#include <fmt/format.h>

#include "host/nn/model.h"
#include "models/models.h"

namespace lockstep {
namespace {

using Ref = Model::TensorRef;
using Json = nlohmann::json;

Ref conv(Model& model, Ref x, int64_t filters, int64_t kernel, int64_t stride, bool bias) {
  return model.call("Conv2D",
                    {{"filters", filters},
                     {"kernel_size", kernel},
                     {"strides", stride},
                     {"padding", "same"},
                     {"use_bias", bias},
                     {"kernel_initializer", "HeNormal"}},
                    {x});
}

Ref normalized(Model& model, Ref x) {
  return model.call("BatchNormalization", Json::object(), {x});
}

Ref relu(Model& model, Ref x) { return model.call("Activation", {{"activation", "relu"}}, {x}); }

// Two 3x3 convolutions and the way around them; where the size changes, a 1x1 convolution.
Ref basic_block(Model& model, Ref x, int64_t filters, int64_t stride) {
  Ref y = relu(model, normalized(model, conv(model, x, filters, 3, stride, false)));
  y = normalized(model, conv(model, y, filters, 3, 1, false));
  if (stride != 1) x = normalized(model, conv(model, x, filters, 1, stride, false));
  return relu(model, model.call("Add", Json::object(), {x, y}));
}

// 1x1, 3x3 and 1x1 convolutions; the first block of a stage changes the way around.
Ref bottleneck(Model& model, Ref x, int64_t filters, int64_t stride, bool first) {
  Ref y = relu(model, normalized(model, conv(model, x, filters, 1, stride, true)));
  y = relu(model, normalized(model, conv(model, y, filters, 3, 1, true)));
  y = normalized(model, conv(model, y, 4 * filters, 1, 1, true));
  if (first) x = normalized(model, conv(model, x, 4 * filters, 1, stride, true));
  return relu(model, model.call("Add", Json::object(), {x, y}));
}

void finish(Model& model, Ref x, int64_t classes) {
  x = model.call("GlobalAveragePooling2D", Json::object(), {x});
  model.set_outputs({model.call("Dense", {{"units", classes}, {"activation", "softmax"}}, {x})});
}

}  // namespace

std::unique_ptr<Model> resnet20(const Shape& input_shape, int64_t classes) {
  auto model = std::make_unique<Model>("resnet20");
  Ref x = model->input(input_shape);
  x = relu(*model, normalized(*model, conv(*model, x, 16, 3, 1, false)));
  for (const int64_t filters : {16, 32, 64}) {
    for (int block = 0; block < 3; ++block) {
      x = basic_block(*model, x, filters, block == 0 && filters > 16 ? 2 : 1);
    }
  }
  finish(*model, x, classes);
  return model;
}

std::unique_ptr<Model> resnet50(const Shape& input_shape, int64_t classes) {
  auto model = std::make_unique<Model>("resnet50");
  Ref x = model->input(input_shape);
  x = model->call("ZeroPadding2D", {{"padding", 3}}, {x});
  x = model->call("Conv2D", {{"filters", 64}, {"kernel_size", 7}, {"strides", 2}}, {x});
  x = relu(*model, normalized(*model, x));
  x = model->call("ZeroPadding2D", {{"padding", 1}}, {x});
  x = model->call("MaxPooling2D", {{"pool_size", 3}, {"strides", 2}}, {x});
  constexpr int kBlocks[] = {3, 4, 6, 3};
  for (int stage = 0; stage < 4; ++stage) {
    for (int block = 0; block < kBlocks[stage]; ++block) {
      x = bottleneck(*model, x, int64_t{64} << stage, block == 0 && stage > 0 ? 2 : 1, block == 0);
    }
  }
  finish(*model, x, classes);
  return model;
}

}  // namespace lockstep
