#include "host/nn/model.h"
#include "models/models.h"

namespace lockstep {

std::unique_ptr<Model> seed_cnn(const Shape& input_shape, int64_t classes) {
  auto model = std::make_unique<Model>("seed-cnn", input_shape);
  model->add("Conv2D", {{"filters", 4}, {"kernel_size", 3}, {"activation", "relu"}})
      .add("Conv2D", {{"filters", 8}, {"kernel_size", 3}, {"activation", "relu"}})
      .add("Conv2D", {{"filters", 12}, {"kernel_size", 3}, {"activation", "relu"}})
      .add("Flatten")
      .add("Dense", {{"units", 256}, {"activation", "relu"}})
      .add("Dense", {{"units", classes}, {"activation", "softmax"}});
  return model;
}

}  // namespace lockstep
