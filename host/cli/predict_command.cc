#include <fmt/format.h>
#include <fmt/ranges.h>

#include "host/cli/arguments.h"
#include "host/cli/commands.h"
#include "host/cli/factories.h"
#include "host/core/files.h"
#include "host/data/zip_writer.h"
#include "host/train/predict.h"
#include "host/train/trained_model.h"

namespace lockstep {
namespace {

std::vector<OptionSpec> predict_options() {
  using enum OptionType;
  return {{"model", text, "", "FILE|DIR", "model with weights, or the output folder of a run"},
          {"data", text, "", "PATH|NAME", "the rows: test rows, or all where there is no split"},
          {"output", text, "", "FILE",
           "where to: .npy (float32), .csv (a line a row) or .npz (an array an output)"},
          {"batch_size", integer, 32, "B", "rows of a batch"},
          {"numerics", text, "auto", "NAME", "as of 'train'; the run's, where it is a run"}};
}

Status check_output(const std::string& output) {
  for (const char* ending : {".npy", ".csv", ".npz"}) {
    if (output.ends_with(ending)) return {};
  }
  return usage_error("--output: give a file that ends in .npy, .csv or .npz");
}

// What a file of this name holds.
Result<std::string> bytes_of(const Predictions& predictions, const std::vector<std::string>& names,
                             const std::string& output) {
  const size_t count = predictions.values.size();
  if (output.ends_with(".npz")) {
    std::vector<std::string> arrays;
    for (size_t i = 0; i < count; ++i) arrays.push_back(to_npy(predictions, i));
    std::vector<NewZipMember> members;
    for (size_t i = 0; i < count; ++i) members.push_back({names.at(i) + ".npy", arrays[i]});
    return make_zip(members);
  }
  if (count != 1) {
    return usage_error(fmt::format(
        "--output: the model has {} outputs ({}), which a file that ends in .npz can hold", count,
        fmt::join(names, ", ")));
  }
  return output.ends_with(".csv") ? to_csv(predictions, 0) : to_npy(predictions, 0);
}

Status predict_to_file(const nlohmann::json& values) {
  const std::string output = values.at("output");
  LOCKSTEP_RETURN_IF_ERROR(check_output(output));
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
  LOCKSTEP_ASSIGN(const std::string bytes, bytes_of(predictions, trained.outputs(), output));
  LOCKSTEP_RETURN_IF_ERROR(write_file_atomically(output, bytes));
  std::vector<std::string> shapes;
  for (const Shape& shape : predictions.shapes) shapes.push_back(to_string(shape));
  fmt::print("{} rows of shape {} in {}\n", predictions.rows, fmt::join(shapes, " and "), output);
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
