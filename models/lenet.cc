#include "host/nn/model.h"
#include "models/models.h"

namespace lockstep {

std::unique_ptr<Model> lenet(const Shape& input_shape, int64_t classes, double dropout_rate) {
  auto model = std::make_unique<Model>("lenet", input_shape);
  model
      ->add("Conv2D",
            {{"filters", 6}, {"kernel_size", 5}, {"padding", "same"}, {"activation", "relu"}})
      .add("MaxPooling2D", {{"pool_size", 2}})
      .add("Conv2D", {{"filters", 16}, {"kernel_size", 5}, {"activation", "relu"}})
      .add("MaxPooling2D", {{"pool_size", 2}})
      .add("Flatten")
      .add("Dense", {{"units", 120}, {"activation", "relu"}})
      .add("Dense", {{"units", 84}, {"activation", "relu"}})
      .add("Dropout", {{"rate", dropout_rate}})
      .add("Dense", {{"units", classes}, {"activation", "softmax"}});
  return model;
}

}  // namespace lockstep
