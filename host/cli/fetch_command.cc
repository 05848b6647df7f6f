#include <fmt/format.h>

#include <string>

#include "host/cli/arguments.h"
#include "host/cli/commands.h"
#include "host/cli/factories.h"
#include "host/cli/network_options.h"
#include "host/core/digest.h"
#include "host/core/files.h"
#include "host/job/data_job.h"
#include "host/job/job.h"
#include "host/keras/safetensors.h"
#include "host/nn/model_config.h"
#include "host/runtime/state_file.h"
#include "host/train/output_folder.h"
#include "host/train/trained_model.h"

namespace lockstep {
namespace {

std::vector<OptionSpec> fetch_options() {
  return std::vector<OptionSpec>{
             {"output", OptionType::text, "", "DIR", "where the model is written"}} +
         network_options(false);
}

// Whole and undamaged: its name is its hash.
Result<std::string> read_state(ControlClient& client, const NewestState& newest) {
  std::string bytes;
  while (true) {
    LOCKSTEP_ASSIGN(const std::string part,
                    client.read_state(newest.object, static_cast<int64_t>(bytes.size())));
    if (part.empty()) break;
    bytes += part;
  }
  if (sha256_hex(bytes) == newest.object) return bytes;
  return Error{fmt::format("the state of step {} arrived damaged", newest.step)};
}

Result<std::string> fetch(const std::string& where, const nlohmann::json& values,
                          Context& context) {
  LOCKSTEP_ASSIGN(const Address address, parse_address(where, "fetch"));
  const std::string output = values.at("output");
  if (output.empty()) return usage_error("--output is missing: say which folder");
  LOCKSTEP_RETURN_IF_ERROR(use_network(values, context, nullptr));
  LOCKSTEP_ASSIGN(const auto client, context.network->connect_control(address, kConnectMs));
  LOCKSTEP_ASSIGN(const NewestState newest, client->newest_state());
  LOCKSTEP_ASSIGN(const std::string bytes, read_state(*client, newest));
  LOCKSTEP_ASSIGN(const StateView state, decode_state(bytes));
  const auto json = nlohmann::json::parse(newest.job, nullptr, false);
  if (!json.is_object()) return Error{"the coordinator sent a job that is not JSON"};
  LOCKSTEP_ASSIGN(const Job job, job_from_json(json));
  LOCKSTEP_ASSIGN(const auto model, model_from_config(job.model_config));
  LOCKSTEP_ASSIGN(const Graph graph, model->training_graph(objective_of(job)));
  if (state.vectors.empty() || state.header.parameters != graph.parameter_count) {
    return Error{"the state is not one of this model"};
  }
  const std::string weights(state.vectors[0]);
  LOCKSTEP_RETURN_IF_ERROR(make_writable_folder(output));
  LOCKSTEP_RETURN_IF_ERROR(write_job(output, job));
  LOCKSTEP_RETURN_IF_ERROR(write_file_atomically(
      output + "/weights.safetensors", to_safetensors(graph.parameters, weights,
                                                      {{"format", "lockstep"},
                                                       {"step", std::to_string(newest.step)},
                                                       {"recipe_sha256", recipe_sha256(job)}})));
  LOCKSTEP_ASSIGN(const std::string keras, keras_file_of(job, *model, graph.parameters, state,
                                                         nullptr, newest.learning_rate));
  LOCKSTEP_RETURN_IF_ERROR(write_file_atomically(output + "/model.keras", keras));
  return fmt::format("step {} of {}: model.keras and weights.safetensors in {}\nweights sha256: {}",
                     newest.step, job.total_steps(), output, sha256_hex(weights));
}

}  // namespace

int run_fetch(const Arguments& arguments, Context& context) {
  if (arguments.empty() || arguments[0] == "--help") {
    fmt::print(
        "lockstep fetch HOST:PORT: the model of a running coordinator, as of its newest "
        "checkpoint\n\n{}\nThe folder is one for 'lockstep evaluate --model'. Files of an earlier "
        "fetch are replaced.\n",
        options_help(fetch_options()));
    return arguments.empty() ? 2 : 0;
  }
  const auto values =
      parse_arguments(fetch_options(), Arguments(arguments.begin() + 1, arguments.end()));
  if (!values.ok()) return report_error(values.error());
  const auto text = fetch(arguments[0], *values, context);
  if (!text.ok()) return report_error(text.error());
  fmt::print("{}\n", *text);
  return 0;
}

}  // namespace lockstep
