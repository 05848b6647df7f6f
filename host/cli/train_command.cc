#include <fmt/format.h>

#include "host/cli/arguments.h"
#include "host/cli/commands.h"
#include "host/cli/factories.h"
#include "host/cli/network_options.h"
#include "host/cli/training.h"
#include "host/observe/log_format.h"
#include "host/train/output_folder.h"
#include "host/train/resolve.h"

namespace lockstep {
namespace {

const auto now = std::chrono::system_clock::now;

constexpr const char* kTrainHelp =
    "lockstep train: trains a model on this machine\n\n{}\n"
    "The coordinator is part of this process and the nodes are its children: a node that dies is "
    "started again, and\nwhen this process dies its nodes die with it. The same command with "
    "--resume then goes on from the newest\ncheckpoint, to the same bits: 'lockstep train --resume "
    "--output DIR' takes the job from the folder, and a higher\n--epochs makes it longer.\n";
constexpr const char* kCoordinatorHelp =
    "lockstep coordinator: leads a job whose nodes are started elsewhere\n\n{}\n"
    "When it dies the nodes wait for it. The same command with the same --state or --output goes "
    "on, with the nodes\nthat are still there or with others, to the same bits.\n";

std::vector<OptionSpec> shared_options() {
  using enum OptionType;
  return {{"job", text, "", "FILE", "JSON file with job options; flags win over it"},
          {"output", text, "", "DIR", "folder for the results [lockstep-runs/…]"},
          {"checkpoints", text, "", "DIR", "where states are kept [beside the log of the run]"},
          {"ledger", text, "", "FILE", "write which samples each step consumed"}};
}

std::vector<OptionSpec> train_options() {
  return job_options() + run_options() + shared_options() + monitoring_options() +
         std::vector<OptionSpec>{{"resume", OptionType::boolean, false, "",
                                  "go on from the newest checkpoint of the run in --output"}} +
         device_options();
}

std::vector<OptionSpec> coordinator_options() {
  using enum OptionType;
  return job_options() + run_options() + shared_options() + monitoring_options() +
         std::vector<OptionSpec>{
             {"state", text, "", "DIR", "where the log of the run is kept [OUTPUT/checkpoints]"},
             {"listen", text, "127.0.0.1:7070", "HOST:PORT", "where nodes find the coordinator"}} +
         network_options(true);
}

// What the model's file was compiled with stands below everything that is said.
Result<nlohmann::json> with_compiled(const std::vector<OptionSpec>& options,
                                     const Arguments& arguments, const nlohmann::json& values) {
  std::vector<std::string> notes;
  if (!values.at("model").is_string()) return values;
  LOCKSTEP_ASSIGN(const auto compiled, compiled_options(values.at("model"), &notes));
  for (const std::string& note : notes) fmt::print(stderr, "note: {}\n", note);
  return parse_arguments(options, arguments, compiled);
}

// With --resume the job is the one in the folder, as far as nothing else is said.
Result<nlohmann::json> parse_train(const Arguments& arguments) {
  const auto options = train_options();
  LOCKSTEP_ASSIGN(auto values, parse_arguments(options, arguments));
  if (values.at("resume") == false) return with_compiled(options, arguments, values);
  const std::string output = values.at("output");
  if (output.empty()) {
    return usage_error("--resume: say with --output in which folder the run is to go on");
  }
  LOCKSTEP_ASSIGN(const auto job, read_job_json(output));
  nlohmann::json base = nlohmann::json::object();
  for (const OptionSpec& option : job_options()) {
    if (job.contains(option.key)) base[option.key] = job.at(option.key);
  }
  return parse_arguments(options, arguments, base);
}

Result<TrainingRequest> request_from(const nlohmann::json& values) {
  TrainingRequest request;
  request.options = values;
  LOCKSTEP_ASSIGN(request.run, run_options_from(values));
  request.output = values.at("output");
  request.checkpoints = values.at("checkpoints");
  request.ledger = values.at("ledger");
  LOCKSTEP_ASSIGN(request.monitoring, monitoring_from(values));
  request.run.keep_ledger = !request.ledger.empty();
  return request;
}

Result<TrainingRequest> train_request(nlohmann::json values) {
  const std::string kind = values.at("device");
  if (values.at("numerics") == "auto") values["numerics"] = default_numerics(kind);
  LOCKSTEP_ASSIGN(TrainingRequest request, request_from(values));
  request.resume = values.at("resume");
  LOCKSTEP_ASSIGN(request.devices, parse_devices(values.at("devices")));
  request.device = kind;
  // Nothing is started for a job that cannot be.
  LOCKSTEP_RETURN_IF_ERROR(job_from_options(values));
  LOCKSTEP_RETURN_IF_ERROR(check_device(kind, values.at("numerics")));
  return request;
}

Result<TrainingRequest> coordinator_request(const nlohmann::json& values) {
  LOCKSTEP_ASSIGN(TrainingRequest request, request_from(values));
  LOCKSTEP_ASSIGN(request.listen, parse_address(values.at("listen"), "--listen"));
  request.state = values.at("state");
  request.spawn_nodes = false;
  request.resume = true;
  return request;
}

// Runs the job; the last line on standard output is the hash of the weights.
int train(const Result<TrainingRequest>& request, Context& context) {
  if (!request.ok()) return report_error(request.error());
  const auto outcome = run_training(*request, context);
  if (context.signals.received() != 0) {
    if (!outcome.ok()) report_error(outcome.error());
    return 128 + context.signals.received();
  }
  if (!outcome.ok()) return report_error(outcome.error());
  fmt::print("weights sha256: {}\n", outcome->weights_sha256);
  return 0;
}

}  // namespace

int run_train(const Arguments& arguments, Context& context) {
  if (arguments == Arguments{"--help"}) {
    fmt::print(kTrainHelp, options_help(train_options()));
    return 0;
  }
  const auto values = parse_train(arguments);
  if (!values.ok()) return report_error(values.error());
  return train(train_request(*values), context);
}

int run_coordinator(const Arguments& arguments, Context& context) {
  if (arguments == Arguments{"--help"}) {
    fmt::print(kCoordinatorHelp, options_help(coordinator_options()));
    return 0;
  }
  const auto options = coordinator_options();
  const auto said = parse_arguments(options, arguments);
  if (!said.ok()) return report_error(said.error());
  const auto values = with_compiled(options, arguments, *said);
  if (!values.ok()) return report_error(values.error());
  const Status network = use_network(
      *values, context, [json = values->at("log_format") == "json"](const std::string& line) {
        fmt::print(stderr, "{}",
                   json ? json_log_line({"", "coordinator"}, line, now()) : line + "\n");
      });
  if (!network.ok()) return report_error(network.error());
  return train(coordinator_request(*values), context);
}

}  // namespace lockstep
