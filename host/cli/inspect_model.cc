#include "host/cli/inspect_model.h"

#include <fmt/format.h>

#include <algorithm>

#include "host/cli/factories.h"
#include "host/core/digest.h"
#include "host/core/files.h"
#include "host/graph/listing.h"
#include "host/graph/operations.h"
#include "host/job/job.h"
#include "host/job/output_options.h"
#include "host/keras/drawing.h"
#include "host/keras/summary.h"
#include "host/keras/weights.h"
#include "host/nn/losses.h"
#include "host/nn/model_config.h"
#include "host/nn/regularizers.h"
#include "host/train/resolve.h"

namespace lockstep {
namespace {

constexpr int64_t kMostRows = 1 << 20;

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

// As it was compiled: forward, loss and gradients; what was not, forward only.
Result<Graph> step_graph(const ModelFile& file, const Model& model, const Graph& forward) {
  if (!file.compile.is_object()) return forward;
  std::vector<std::string> notes;
  const nlohmann::json options = options_of_compile(file, &notes);
  if (!options.contains("loss")) return forward;
  Objective objective;
  LOCKSTEP_ASSIGN(objective.outputs, output_objectives(options, output_names(file.config)));
  for (size_t i = 0; i < objective.outputs.size(); ++i) {
    OutputObjective& output = objective.outputs[i];
    if (output.loss.is_null()) continue;
    output.target_shape = forward.output_shapes.at(i);
    const bool classes = is_sparse_loss(output.loss) && !output.target_shape.empty();
    if (classes) output.target_shape.pop_back();
  }
  objective.has_activity_losses = has_activity_losses(model.config());
  return model.training_graph(objective);
}

Status print_program(const Graph& graph, int64_t batch_size) {
  if (batch_size < 1 || batch_size > kMostRows) {
    return usage_error(
        fmt::format("--batch-size {}: must be between 1 and {}", batch_size, kMostRows));
  }
  const std::string numerics = default_numerics("cpu");
  LOCKSTEP_ASSIGN(const auto device, make_device("cpu", numerics, 0));
  const int partitions = default_partitions(graph, batch_size);
  fmt::print("\na step of {} rows on {}, P = {}:\n{}", batch_size, numerics, partitions,
             program_listing(graph, *device, static_cast<int>(batch_size), partitions));
  return {};
}

Status print_costs(const ModelFile& file, const Model& model, const InspectOptions& options) {
  LOCKSTEP_ASSIGN(const Graph forward, model.predict_graph());
  LOCKSTEP_ASSIGN(const Graph step, step_graph(file, model, forward));
  const int64_t all = operations_of(step);
  const int64_t part = operations_of(forward);
  fmt::print("operations of a row: {} forward{}\n", count_text(part),
             step.gradient_count > 0 ? fmt::format(", {} backward", count_text(all - part)) : "");
  return options.program ? print_program(step, options.batch_size) : Status{};
}

}  // namespace

Status inspect_model(const std::string& path, const InspectOptions& options) {
  LOCKSTEP_ASSIGN(const ModelFile file, read_model_file(path));
  if (!file.has_model()) {
    return usage_error(fmt::format(
        "'{}' holds weights, but no model: inspect the .keras file that they are of", path));
  }
  const size_t inputs = std::max<size_t>(1, input_names(file.config).size());
  const std::vector<Shape> shapes(options.rows.empty() ? 0 : inputs, options.rows);
  const auto model = model_from_config(file.config, shapes);
  if (!model.ok()) return model.error();
  LOCKSTEP_ASSIGN(const std::string summary, model_summary(**model));
  fmt::print("{}", summary);
  print_compiled(file.compile);
  LOCKSTEP_RETURN_IF_ERROR(print_costs(file, **model, options));
  if (!options.drawing.empty()) {
    LOCKSTEP_ASSIGN(const std::string drawing, draw_model(**model));
    LOCKSTEP_RETURN_IF_ERROR(write_file_atomically(options.drawing, drawing));
  }
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
