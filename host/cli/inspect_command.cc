#include <fmt/format.h>

#include "host/checkpoint/inspect.h"
#include "host/cli/arguments.h"
#include "host/cli/commands.h"
#include "host/cli/inspect_model.h"
#include "host/cluster/records.h"
#include "host/core/digest.h"
#include "host/core/files.h"
#include "host/job/callback_table.h"
#include "host/job/data_job.h"
#include "host/job/metric_table.h"
#include "host/keras/safetensors.h"
#include "host/nn/layers_page.h"
#include "host/nn/model_config.h"
#include "host/train/output_folder.h"

namespace lockstep {
namespace {

Status inspect_run(const std::string& folder) {
  LOCKSTEP_ASSIGN(const Job job, read_job(folder));
  fmt::print("{} on {}: {} epochs of {} rows, batch {}, P = {}, {}\nrecipe sha256: {}\n", job.model,
             job.data, job.epochs, job.train_rows, job.batch_size, job.partitions, job.numerics,
             recipe_sha256(job));
  LOCKSTEP_ASSIGN(const auto model, model_from_config(job.model_config));
  LOCKSTEP_ASSIGN(const Graph graph, model->training_graph(objective_of(job)));
  for (const Parameter& parameter : graph.parameters) {
    fmt::print("  {:<24} {:<20} {:>9}\n", parameter.layer + "/" + parameter.name,
               to_string(parameter.shape), parameter.count());
  }
  const std::string path = folder + "/weights.safetensors";
  if (!file_exists(path)) {
    fmt::print("no weights: the run did not complete\n");
    return {};
  }
  LOCKSTEP_ASSIGN(const auto weights, read_safetensors(path, graph.parameters));
  fmt::print("weights sha256: {}\n",
             sha256_hex({reinterpret_cast<const char*>(weights.data()), weights.size() * 4}));
  return {};
}

bool is_state_folder(const std::string& folder) {
  return file_exists(folder + "/log") || folder_exists(folder + "/objects");
}

// By the job that stands in the state folder, or in the run whose `checkpoints` it is.
DescribeSums describe_sums(const std::string& folder) {
  for (const std::string& place : {folder, folder + "/.."}) {
    const auto job = read_job(place);
    if (!job.ok()) continue;
    return [table = MetricTable(*job)](const MetricSums& sums) { return table.text(sums); };
  }
  return {};
}

// The lineage, every hash verified.
Status inspect_state(const std::string& folder) {
  if (!folder_exists(folder + "/objects")) {
    fmt::print("no states in '{}': they are where --checkpoints said\n", folder);
    return {};
  }
  PosixFileSystem files;
  bool damaged = false;
  bool unreadable = false;
  const DescribeSums metrics = describe_sums(folder);
  const auto describe = [&](const LogRecord& record) {
    const auto decoded = decode_record(record.body);
    unreadable = unreadable || !decoded.ok();
    return decoded.ok() ? describe_record(*decoded, metrics)
                        : "damaged: " + decoded.error().message;
  };
  LOCKSTEP_ASSIGN(const std::string text,
                  inspect_lineage(files, folder, describe, metrics, &damaged));
  fmt::print("{}", text);
  if (!damaged && !unreadable) return {};
  return Error{fmt::format("'{}' is damaged: what is whole and what is not stands above", folder)};
}

Status inspect_folder(const std::string& folder) {
  const bool is_run = file_exists(folder + "/job.json") && !file_exists(folder + "/log");
  if (!is_run && is_state_folder(folder)) return inspect_state(folder);
  LOCKSTEP_RETURN_IF_ERROR(inspect_run(folder));
  const std::string state = OutputFolder::state_path(folder);
  return is_state_folder(state) ? inspect_state(state) : Status{};
}

// The table of callbacks: what each does, and its keys with their defaults.
void print_callbacks() {
  for (const CallbackType& type : callback_types()) {
    fmt::print("{}: {}\n", type.class_name, type.summary);
    std::string text;
    for (const ConfigKey& key : type.keys) {
      text += fmt::format("{}{}{}", text.empty() ? "    " : ", ", key.name,
                          key.is_required() ? "" : " = " + key.default_value.dump());
    }
    if (!text.empty()) fmt::print("{}\n", text);
  }
}

std::vector<OptionSpec> model_options() {
  using enum OptionType;
  return {{"rows", list, nlohmann::json::array(), "224,224,3",
           "the shape of a row, where a model leaves it open"},
          {"program", boolean, false, "", "list the ops of a step, after fusion, and their memory"},
          {"batch_size", integer, 32, "B", "rows of that step"},
          {"graph", text, "", "FILE.svg", "draw the layers, their shapes and what they read"}};
}

Status inspect_file(const std::string& path, const Arguments& flags) {
  LOCKSTEP_ASSIGN(const auto values, parse_arguments(model_options(), flags));
  InspectOptions options;
  if (!values.at("rows").empty()) {
    LOCKSTEP_ASSIGN(options.rows, shape_from(values.at("rows"), "--rows"));
  }
  options.program = values.at("program");
  options.batch_size = values.at("batch_size");
  options.drawing = values.at("graph");
  return inspect_model(path, options);
}

}  // namespace

int run_inspect(const Arguments& arguments, Context&) {
  if (arguments.empty() || arguments[0] == "--help") {
    fmt::print(
        "lockstep inspect DIR: the job, the parameters and the weights of a run, and its "
        "checkpoints as a tree;\nor those of a state folder. Every hash is verified: exit code 1 "
        "where something is damaged.\nlockstep inspect FILE [--rows 224,224,3]: a model's layers, "
        "their shapes and weights; with the shape of\na row, where the model leaves it open\n"
        "lockstep inspect --layers: Keras' layers that a model may have, with their keys, in "
        "Markdown\n"
        "lockstep inspect --callbacks: Keras' callbacks that a job may have, with their keys\n\n"
        "Of FILE:\n{}",
        options_help(model_options()));
    return arguments.size() == 1 ? 0 : 2;
  }
  if (arguments[0] == "--layers") {
    fmt::print("{}", layers_page());
    return 0;
  }
  if (arguments[0] == "--callbacks") {
    print_callbacks();
    return 0;
  }
  const std::string& path = arguments[0];
  const bool is_model = !folder_exists(path) || file_exists(path + "/config.json");
  const Arguments flags(arguments.begin() + 1, arguments.end());
  if (!is_model && !flags.empty()) {
    return report_error(usage_error(fmt::format(
        "'{}' is no model's file: it takes no flags; inspect model.keras in it", path)));
  }
  const Status status = is_model ? inspect_file(path, flags) : inspect_folder(path);
  return status.ok() ? 0 : report_error(status.error());
}

}  // namespace lockstep
