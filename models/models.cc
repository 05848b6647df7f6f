#include "models/models.h"

#include <fmt/format.h>

#include "host/core/suggest.h"

namespace lockstep {
namespace {

constexpr double kLenetDropoutRate = 0.5;

std::unique_ptr<Model> model_by_name(const std::string& name, const Shape& input_shape,
                                     int64_t classes) {
  if (name == "seed-cnn") return seed_cnn(input_shape, classes);
  if (name == "mlp") return mlp(input_shape, classes);
  if (name == "lenet") return lenet(input_shape, classes, kLenetDropoutRate);
  if (name == "resnet20") return resnet20(input_shape, classes);
  if (name == "resnet50") return resnet50(input_shape, classes);
  return nullptr;
}

}  // namespace

std::vector<std::string> model_names() {
  return {"seed-cnn", "mlp", "lenet", "resnet20", "resnet50"};
}

Result<std::unique_ptr<Model>> build_model(const std::string& name, const Shape& input_shape,
                                           int64_t classes) {
  std::unique_ptr<Model> model = model_by_name(name, input_shape, classes);
  if (model == nullptr) return usage_error(unknown_name_message("model", name, model_names()));
  if (const auto graph = model->predict_graph(); !graph) {
    return Error{fmt::format("model '{}' for inputs of shape {} and {} classes: {}", name,
                             to_string(input_shape), classes, graph.error().message),
                 graph.error().kind};
  }
  return model;
}

}  // namespace lockstep
