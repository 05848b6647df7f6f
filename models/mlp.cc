#include "host/nn/model.h"
#include "models/models.h"

namespace lockstep {

std::unique_ptr<Model> mlp(const Shape& input_shape, int64_t classes) {
  auto model = std::make_unique<Model>("mlp", input_shape);
  model->add("Flatten")
      .add("Dense", {{"units", 256}, {"activation", "relu"}})
      .add("Dense", {{"units", 128}, {"activation", "relu"}})
      .add("Dense", {{"units", classes}, {"activation", "softmax"}});
  return model;
}

}  // namespace lockstep
