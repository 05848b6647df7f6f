#include <fmt/format.h>

#include "host/cli/arguments.h"
#include "host/cli/commands.h"
#include "host/cli/factories.h"
#include "host/core/files.h"
#include "host/train/predict.h"
#include "host/train/trained_model.h"

namespace lockstep {
namespace {

std::vector<OptionSpec> predict_options() {
  using enum OptionType;
  return {{"model", text, "", "FILE|DIR", "model with weights, or the output folder of a run"},
          {"data", text, "", "PATH|NAME", "the rows: test rows, or all where there is no split"},
          {"output", text, "", "FILE", "where to: .npy (float32) or .csv (a line a row)"},
          {"batch_size", integer, 32, "B", "rows of a batch"},
          {"numerics", text, "auto", "NAME", "as of 'train'; the run's, where it is a run"}};
}

Status predict_to_file(const nlohmann::json& values) {
  const std::string output = values.at("output");
  const bool csv = output.ends_with(".csv");
  if (!csv && !output.ends_with(".npy")) {
    return usage_error("--output: give a file that ends in .npy or .csv");
  }
  const std::string data = values.at("data");
  if (data.empty()) return usage_error("--data is missing: say which rows");
  const int64_t batch_size = values.at("batch_size");
  if (batch_size < 1) return usage_error("--batch-size: must be at least 1");
  LOCKSTEP_ASSIGN(const TrainedModelFile trained, read_trained_model(values.at("model")));
  DataOptions options = trained.data_options;
  options.needs_targets = false;
  LOCKSTEP_ASSIGN(const Dataset dataset, load_dataset(data, Split::test, options));
  LOCKSTEP_ASSIGN(const ReadyModel ready, trained.make_ready(dataset));
  const std::string kind = values.at("device");
  std::string numerics = values.at("numerics");
  if (numerics == "auto" && trained.job) numerics = trained.job->numerics;
  if (numerics == "auto") numerics = default_numerics(kind);
  LOCKSTEP_RETURN_IF_ERROR(check_device(kind, numerics));
  LOCKSTEP_ASSIGN(int devices, parse_devices(values.at("devices")));
  if (devices == 0) devices = available_devices(kind, numerics);
  LOCKSTEP_ASSIGN(const Predictions predictions,
                  predict(ready.graph, ready.weights, dataset, batch_size, devices,
                          [&](int index) { return make_device(kind, numerics, index); }));
  if (predictions.values.size() != 1) {
    return usage_error(
        fmt::format("the model has {} outputs, and one is supported", predictions.values.size()));
  }
  LOCKSTEP_RETURN_IF_ERROR(
      write_file_atomically(output, csv ? to_csv(predictions, 0) : to_npy(predictions, 0)));
  fmt::print("{} rows of shape {} in {}\n", predictions.rows, to_string(predictions.shapes[0]),
             output);
  return {};
}

}  // namespace

int run_predict(const Arguments& arguments, Context&) {
  const auto options = predict_options() + device_options();
  if (arguments == Arguments{"--help"}) {
    fmt::print("lockstep predict: what a trained model puts out\n\n{}", options_help(options));
    return 0;
  }
  const auto values = parse_arguments(options, arguments);
  if (!values.ok()) return report_error(values.error());
  const Status status = predict_to_file(*values);
  return status.ok() ? 0 : report_error(status.error());
}

}  // namespace lockstep
