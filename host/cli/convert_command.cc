#include <fmt/format.h>

#include <algorithm>

#include "host/cli/arguments.h"
#include "host/cli/commands.h"
#include "host/cli/factories.h"
#include "host/core/files.h"
#include "host/job/metric_table.h"
#include "host/job/output_options.h"
#include "host/keras/onnx_file.h"
#include "host/keras/safetensors.h"
#include "host/keras/save_model.h"
#include "host/nn/losses.h"
#include "host/nn/model_config.h"
#include "host/train/resolve.h"

namespace lockstep {
namespace {

// The order matters: .weights.h5 is an .h5 too.
constexpr const char* kEndings[] = {".keras", ".weights.h5", ".h5", ".safetensors", ".onnx"};

constexpr const char* kConvertHelp =
    "lockstep convert IN OUT: a model's file in another form, chosen by OUT's name: .keras, "
    ".weights.h5, .h5,\n.safetensors or .onnx (inference, opset 17). IN is one of these but "
    ".onnx, or the output folder of a run;\nwhere it holds weights alone, --model says of which "
    "model. What OUT cannot hold is told.\n\n{}";

std::vector<OptionSpec> convert_options() {
  using enum OptionType;
  return {{"model", text, "", "FILE", "the model, where IN holds weights alone"},
          {"rows", list, nlohmann::json::array(), "SIZES",
           "shape of a row, where the model leaves it open: 224,224,3"}};
}

Result<std::string> ending_of(const std::string& path) {
  for (const char* ending : kEndings) {
    if (path.ends_with(ending)) return std::string(ending);
  }
  return usage_error(fmt::format(
      "'{}': the name must end in .keras, .weights.h5, .h5, .safetensors or .onnx", path));
}

// All that IN and --model hold.
struct Source {
  std::optional<ModelFile> in;     // nothing: safetensors
  std::optional<ModelFile> given;  // by --model
  std::unique_ptr<Model> model;
  Graph graph;
  std::vector<float> weights;
  std::optional<Optimizer> optimizer;
  std::optional<OptimizerState> state;

  const ModelFile& model_file() const { return given ? *given : *in; }
};

Status read_files(const std::string& path, const std::string& model, Source* source) {
  if (!path.ends_with(".safetensors")) {
    LOCKSTEP_ASSIGN(source->in, read_model_file(path));
    if (!source->in->has_weights()) {
      return usage_error(fmt::format("'{}' holds no weights: nothing can be converted", path));
    }
  }
  if (!model.empty()) {
    LOCKSTEP_ASSIGN(source->given, read_model_file(model));
    if (source->in && !source->in->has_model()) source->in->compile = source->given->compile;
  }
  if ((source->given || source->in) && source->model_file().has_model()) return {};
  return usage_error(fmt::format("'{}' holds weights alone: say with --model of which", path));
}

Status read_state(Source* source) {
  if (!source->in || !source->in->compile.is_object()) return {};
  auto optimizer = Optimizer::create(source->in->compile.value("optimizer", nlohmann::json()));
  if (!optimizer.ok()) return {};
  source->optimizer = std::move(*optimizer);
  std::string why_not;
  LOCKSTEP_ASSIGN(source->state, read_optimizer_state(*source->in, *source->optimizer,
                                                      source->graph.parameters, &why_not));
  return {};
}

Result<Source> read_source(const std::string& in, const nlohmann::json& values) {
  const std::string path = file_exists(in + "/job.json") ? in + "/model.keras" : in;
  Source source;
  LOCKSTEP_RETURN_IF_ERROR(read_files(path, values.at("model"), &source));
  const nlohmann::json& config = source.model_file().config;
  const auto inputs = std::max<size_t>(1, input_names(config).size());
  LOCKSTEP_ASSIGN(const Shape row, shape_from(values.at("rows"), "--rows"));
  const std::vector<Shape> rows(row.empty() ? 0 : inputs, row);
  LOCKSTEP_ASSIGN(source.model, model_from_config(config, rows));
  LOCKSTEP_ASSIGN(source.graph, source.model->predict_graph());
  if (!source.in) {
    LOCKSTEP_ASSIGN(source.weights, read_safetensors(path, source.graph.parameters));
    return source;
  }
  LOCKSTEP_ASSIGN(source.weights, read_weights(*source.in, *source.model, source.graph.parameters));
  LOCKSTEP_RETURN_IF_ERROR(read_state(&source));
  return source;
}

// What a legacy file was compiled with, for a config that is written anew.
std::optional<CompileSettings> settings_of(const Source& source) {
  if (!source.optimizer) return std::nullopt;
  std::vector<std::string> notes;
  const auto outputs = output_objectives(options_of_compile(source.model_file(), &notes),
                                         output_names(source.model_file().config));
  if (!outputs.ok()) return std::nullopt;
  return CompileSettings{source.optimizer->config(), losses_json(*outputs), metrics_json(*outputs),
                         loss_weights_json(*outputs), weighted_metrics_json(*outputs)};
}

Status convert(const std::string& in, const std::string& out, const nlohmann::json& values) {
  LOCKSTEP_ASSIGN(const std::string ending, ending_of(out));
  LOCKSTEP_ASSIGN(const Source source, read_source(in, values));
  TrainedModel trained;
  trained.model = source.model.get();
  trained.parameters = &source.graph.parameters;
  trained.weights = source.weights;
  trained.source = &source.model_file();
  trained.compile = settings_of(source);
  if (source.state) {
    trained.optimizer = {&*source.optimizer, source.state->iterations, {}};
    trained.optimizer->before_3_10 = source.model_file().is_before_3_10();
    for (const auto& slot : source.state->slots) trained.optimizer->slots.push_back(slot);
  }
  std::string left_out;
  Result<std::string> bytes = std::string();
  if (ending == ".keras") {
    bytes = make_keras_file(trained);
  } else if (ending == ".weights.h5") {
    bytes =
        make_weights_h5(*trained.model, *trained.parameters, trained.weights, trained.optimizer);
    left_out = "the model and what it was compiled with";
  } else if (ending == ".h5") {
    bytes = make_legacy_h5(trained);
    if (source.state) left_out = "the optimizer's state";
  } else if (ending == ".onnx") {
    bytes = make_onnx_file(source.graph, source.weights, source.model->name(),
                           output_names(source.model_file().config));
    left_out =
        "the layers, what acts in training alone, what the model was compiled with and the "
        "optimizer's state";
  } else {
    const std::string_view flat(reinterpret_cast<const char*>(source.weights.data()),
                                source.weights.size() * sizeof(float));
    bytes = to_safetensors(source.graph.parameters, std::string(flat), {{"format", "lockstep"}});
    left_out = "the model, what it was compiled with and the optimizer's state";
  }
  if (!bytes.ok()) return bytes.error();
  LOCKSTEP_RETURN_IF_ERROR(write_file_atomically(out, *bytes));
  fmt::print("{} holds {} weights{}\n", out, source.weights.size(),
             source.state && left_out.empty() ? " and the optimizer's state" : "");
  if (!left_out.empty()) fmt::print("it cannot hold: {}\n", left_out);
  return {};
}

}  // namespace

int run_convert(const Arguments& arguments, Context&) {
  const auto options = convert_options();
  if (arguments.size() < 2) {
    fmt::print(kConvertHelp, options_help(options));
    return arguments == Arguments{"--help"} ? 0 : 2;
  }
  const auto values = parse_arguments(options, {arguments.begin() + 2, arguments.end()});
  if (!values.ok()) return report_error(values.error());
  const Status status = convert(arguments[0], arguments[1], *values);
  return status.ok() ? 0 : report_error(status.error());
}

}  // namespace lockstep
