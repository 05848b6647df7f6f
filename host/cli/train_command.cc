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

const auto wall_clock = std::chrono::system_clock::now;

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

constexpr int kLastEventsMs = 1000;  // for a slow reader of the last events

int exit_code_of(const Error& error, int signal) {
  return signal != 0 ? 128 + signal : static_cast<int>(error.kind);
}

std::vector<OptionSpec> shared_options() {
  using enum OptionType;
  return {{"job", text, "", "FILE", "JSON file with job options; flags win over it"},
          {"output", text, "", "DIR", "folder for the results [lockstep-runs/…]"},
          {"checkpoints", text, "", "DIR", "where states are kept [beside the log of the run]"},
          {"events", text, "", "FD",
           "tell what happens in lines of JSON: -, or a file descriptor (python/README.md)"},
          {"epoch_models", boolean, false, "",
           "write the model of each epoch's end: OUTPUT/epoch-1.keras, …"},
          {"decisions", text, "", "FD",
           "the reader of --events decides at each epoch's end, on this file descriptor"},
          {"decision_timeout", integer, 3600, "S", "seconds to wait for such a decision"},
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
                                     const Arguments& arguments, const nlohmann::json& values,
                                     std::vector<std::string>* notes) {
  if (!values.at("model").is_string()) return values;
  LOCKSTEP_ASSIGN(const auto compiled, compiled_options(values.at("model"), notes));
  return parse_arguments(options, arguments, compiled);
}

// With --resume the job is the one in the folder, as far as nothing else is said.
Result<nlohmann::json> parse_train(const Arguments& arguments, std::vector<std::string>* notes) {
  const auto options = train_options();
  LOCKSTEP_ASSIGN(auto values, parse_arguments(options, arguments));
  if (values.at("resume") == false) return with_compiled(options, arguments, values, notes);
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
  LOCKSTEP_RETURN_IF_ERROR(check_nodes(request.run.nodes, values.at("exact") != "off"));
  request.output = values.at("output");
  request.checkpoints = values.at("checkpoints");
  request.ledger = values.at("ledger");
  LOCKSTEP_ASSIGN(request.monitoring, monitoring_from(values));
  request.epoch_models = values.at("epoch_models");
  request.decisions = values.at("decisions");
  request.decision_timeout_s = values.at("decision_timeout");
  if (!request.decisions.empty() && values.at("events") == "") {
    return usage_error("--decisions: somebody must read the questions: say where with --events");
  }
  request.run.keep_ledger = !request.ledger.empty();
  return request;
}

Result<TrainingRequest> train_request(nlohmann::json values) {
  const std::string kind = values.at("device");
  const bool is_auto = values.at("numerics") == "auto";
  if (is_auto) values["numerics"] = default_numerics(kind);
  LOCKSTEP_ASSIGN(TrainingRequest request, request_from(values));
  request.resume = values.at("resume");
  LOCKSTEP_ASSIGN(request.devices, parse_devices(values.at("devices")));
  request.device = kind;
  // Nothing is started for a job that cannot be.
  std::optional<ModelFile> file;
  LOCKSTEP_RETURN_IF_ERROR(job_of_model(values, &file));
  if (is_auto) request.options["numerics"] = default_numerics(kind, file);
  LOCKSTEP_RETURN_IF_ERROR(check_device(kind, request.options.at("numerics")));
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
Result<TrainingOutcome> train(const TrainingRequest& request, Context& context) {
  LOCKSTEP_ASSIGN(TrainingOutcome outcome, run_training(request, context));
  if (context.signals.received() != 0) return Error{"ended by a signal"};
  fmt::print("weights sha256: {}\n", outcome.weights_sha256);
  return outcome;
}

// The exit code; the last event tells the end.
int finish(const Result<TrainingOutcome>& outcome, const Context& context, EventStream* events) {
  const int signal = context.signals.received();
  if (events != nullptr) {
    if (outcome.ok()) {
      events->say("done",
                  {{"weights_sha256", outcome->weights_sha256}, {"seconds", outcome->seconds}});
    } else {
      events->say("error", {{"exit_code", exit_code_of(outcome.error(), signal)},
                            {"message", outcome.error().message}});
    }
    static_cast<void>(events->finish(kLastEventsMs));  // a reader that is gone misses nothing
  }
  if (outcome.ok()) return 0;
  report_error(outcome.error());
  return exit_code_of(outcome.error(), signal);
}

int run_request(Result<TrainingRequest> request, const nlohmann::json& values, Context& context) {
  std::optional<EventStream> events;
  if (values.at("events") != "") {
    auto opened = EventStream::open(values.at("events"));
    if (!opened.ok()) return report_error(opened.error());
    events.emplace(std::move(*opened));
  }
  EventStream* stream = events ? &*events : nullptr;
  if (!request.ok()) return finish(request.error(), context, stream);
  request->events = stream;
  return finish(train(*request, context), context, stream);
}

}  // namespace

int run_train(const Arguments& arguments, Context& context) {
  if (arguments == Arguments{"--help"}) {
    fmt::print(kTrainHelp, options_help(train_options()));
    return 0;
  }
  std::vector<std::string> notes;
  const auto values = parse_train(arguments, &notes);
  if (!values.ok()) return report_error(values.error());
  auto request = train_request(*values);
  if (request.ok()) request->notes = std::move(notes);
  return run_request(std::move(request), *values, context);
}

int run_coordinator(const Arguments& arguments, Context& context) {
  if (arguments == Arguments{"--help"}) {
    fmt::print(kCoordinatorHelp, options_help(coordinator_options()));
    return 0;
  }
  const auto options = coordinator_options();
  const auto said = parse_arguments(options, arguments);
  if (!said.ok()) return report_error(said.error());
  std::vector<std::string> notes;
  const auto values = with_compiled(options, arguments, *said, &notes);
  if (!values.ok()) return report_error(values.error());
  const Status network = use_network(
      *values, context, [json = values->at("log_format") == "json"](const std::string& line) {
        fmt::print(stderr, "{}",
                   json ? json_log_line({"", "coordinator"}, line, wall_clock()) : line + "\n");
      });
  if (!network.ok()) return report_error(network.error());
  auto request = coordinator_request(*values);
  if (request.ok()) request->notes = std::move(notes);
  return run_request(std::move(request), *values, context);
}

}  // namespace lockstep
