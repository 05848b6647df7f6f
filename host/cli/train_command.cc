#include <fmt/format.h>

#include "host/cli/arguments.h"
#include "host/cli/commands.h"
#include "host/cli/factories.h"
#include "host/cli/training.h"

namespace lockstep {
namespace {

constexpr int64_t kMaxNodes = 1024;

std::vector<OptionSpec> shared_options() {
  return {{"job", OptionType::text, "", "FILE", "JSON file with job options; flags win over it"},
          {"nodes", OptionType::integer, 1, "N", "nodes that train"},
          {"output", OptionType::text, "", "DIR", "folder for the results [lockstep-runs/…]"},
          {"ledger", OptionType::text, "", "FILE", "write which samples each step consumed"}};
}

Result<TrainingRequest> request_from(const nlohmann::json& values) {
  TrainingRequest request;
  request.options = values;
  const int64_t nodes = values.at("nodes");
  if (nodes < 1 || nodes > kMaxNodes) {
    return usage_error(fmt::format("--nodes {}: must be between 1 and {}", nodes, kMaxNodes));
  }
  request.nodes = static_cast<int>(nodes);
  request.output = values.at("output");
  request.ledger = values.at("ledger");
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
  const auto options = job_options() + shared_options() + device_options();
  if (arguments == Arguments{"--help"}) {
    fmt::print("lockstep train: trains a model on this machine\n\n{}", options_help(options));
    return 0;
  }
  const auto values = parse_arguments(options, arguments);
  if (!values.ok()) return report_error(values.error());
  auto request = request_from(*values);
  if (request.ok()) {
    const auto devices = parse_devices(values->at("devices"));
    if (!devices.ok()) return report_error(devices.error());
    request->devices = *devices;
    request->device = values->at("device");
    // Nothing is started for a job that cannot be.
    const auto checked = job_from_options(*values);
    if (!checked.ok()) return report_error(checked.error());
    const auto probe = make_device(request->device, values->at("numerics"), 0);
    if (!probe.ok()) return report_error(probe.error());
  }
  return train(request, context);
}

int run_coordinator(const Arguments& arguments, Context& context) {
  const auto options = job_options() + shared_options() +
                       std::vector<OptionSpec>{{"listen", OptionType::text, "127.0.0.1:7070",
                                                "HOST:PORT", "where nodes find the coordinator"}};
  if (arguments == Arguments{"--help"}) {
    fmt::print("lockstep coordinator: leads a job whose nodes are started elsewhere\n\n{}",
               options_help(options));
    return 0;
  }
  const auto values = parse_arguments(options, arguments);
  if (!values.ok()) return report_error(values.error());
  auto request = request_from(*values);
  if (request.ok()) {
    const auto listen = parse_address(values->at("listen"), "--listen");
    if (!listen.ok()) return report_error(listen.error());
    request->listen = *listen;
    request->spawn_nodes = false;
  }
  return train(request, context);
}

}  // namespace lockstep
