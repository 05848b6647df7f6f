#include "host/cli/inspect_model.h"

#include <fmt/format.h>

#include <algorithm>

#include "host/core/digest.h"
#include "host/keras/summary.h"
#include "host/keras/weights.h"
#include "host/nn/model_config.h"

namespace lockstep {
namespace {

void print_compiled(const nlohmann::json& compile) {
  if (!compile.is_object()) {
    fmt::print("not compiled\n");
    return;
  }
  const auto shown = [&](const char* key) {
    const nlohmann::json value = compile.value(key, nlohmann::json());
    return value.is_object() && value.contains("class_name") ? value["class_name"].dump()
                                                             : value.dump();
  };
  fmt::print("compiled with optimizer {}, loss {}, metrics {}\n", shown("optimizer"), shown("loss"),
             shown("metrics"));
}

// What an optimizer has done with the weights, where the file says.
Status print_optimizer(const ModelFile& file, const std::vector<Parameter>& parameters) {
  if (!file.compile.is_object()) return {};
  const auto optimizer = Optimizer::create(file.compile.value("optimizer", nlohmann::json()));
  if (!optimizer.ok()) return {};
  std::string why_not;
  LOCKSTEP_ASSIGN(const auto state, read_optimizer_state(file, *optimizer, parameters, &why_not));
  if (state) fmt::print("optimizer state of {} iterations\n", state->iterations);
  return {};
}

}  // namespace

Status inspect_model(const std::string& path, const Shape& rows) {
  LOCKSTEP_ASSIGN(const ModelFile file, read_model_file(path));
  if (!file.has_model()) {
    return usage_error(fmt::format(
        "'{}' holds weights, but no model: inspect the .keras file that they are of", path));
  }
  const size_t inputs = std::max<size_t>(1, input_names(file.config).size());
  const std::vector<Shape> shapes(rows.empty() ? 0 : inputs, rows);
  const auto model = model_from_config(file.config, shapes);
  if (!model.ok()) return model.error();
  LOCKSTEP_ASSIGN(const std::string summary, model_summary(**model));
  fmt::print("{}", summary);
  print_compiled(file.compile);
  if (!file.has_weights()) {
    fmt::print("no weights\n");
    return {};
  }
  LOCKSTEP_ASSIGN(const Graph graph, (*model)->predict_graph());
  LOCKSTEP_ASSIGN(const auto weights, read_weights(file, **model, graph.parameters));
  LOCKSTEP_RETURN_IF_ERROR(print_optimizer(file, graph.parameters));
  fmt::print("weights sha256: {}\n",
             sha256_hex({reinterpret_cast<const char*>(weights.data()), weights.size() * 4}));
  return {};
}

}  // namespace lockstep
