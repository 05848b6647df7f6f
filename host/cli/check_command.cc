#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "host/cli/arguments.h"
#include "host/cli/commands.h"
#include "host/cli/factories.h"
#include "host/cluster/view.h"
#include "host/graph/operations.h"
#include "host/nn/model_config.h"
#include "host/optim/optimizer.h"
#include "host/runtime/exchange.h"
#include "host/runtime/node_memory.h"
#include "host/train/resolve.h"
#include "models/models.h"

namespace lockstep {
namespace {

std::vector<OptionSpec> check_options() {
  using enum OptionType;
  return job_options() +
         std::vector<OptionSpec>{
             {"job", text, "", "FILE", "JSON file with job options; flags win over it"},
             {"nodes", text, "1:4", "N|MIN:MAX", "of how many nodes"}} +
         device_options();
}

// Each option by itself, then the model, then the whole: everything that is wrong, each once.
class Problems {
 public:
  void add(const Status& status) {
    if (status.ok()) return;
    const std::string& message = status.error().message;
    if (std::find(messages_.begin(), messages_.end(), message) == messages_.end()) {
      messages_.push_back(message);
    }
  }
  Error error() const {
    if (messages_.size() == 1) return usage_error(messages_[0]);
    return usage_error(fmt::format("{} things are in the way:\n- {}", messages_.size(),
                                   fmt::join(messages_, "\n- ")));
  }

 private:
  std::vector<std::string> messages_;
};

template <class T>
Status status_of(const Result<T>& result) {
  return result.ok() ? Status{} : Status{result.error()};
}

Status check_model(const nlohmann::json& values) {
  LOCKSTEP_ASSIGN(const ModelFile file, read_model_file(values.at("model")));
  DataOptions options;
  options.inputs = input_names(file.config);
  if (options.inputs.size() < 2) options.inputs.clear();
  options.needs_targets = false;
  const auto data = load_dataset(values.at("data"), Split::train, options);
  return status_of(
      model_from_config(file.config, data.ok() ? input_rows(*data) : std::vector<Shape>{}));
}

Error all_problems(const nlohmann::json& values, const Error& first) {
  Problems problems;
  for (const OptionSpec& option : job_options()) {
    nlohmann::json alone = default_values(job_options());
    for (const char* key : {"model", "data"}) alone[key] = values.at(key);
    alone[option.key] = values.at(option.key);
    problems.add(status_of(job_from_options(alone)));
  }
  const std::string model = values.at("model");
  if (is_model_path(model) && values.at("data") != "") problems.add(check_model(values));
  problems.add(first);
  return problems.error();
}

// What a node is to do and needs.
struct NodePlan {
  int partitions = 0;  // of one device
  NodeMemory memory;
};

// The plan of the busiest of `nodes` nodes.
Result<NodePlan> plan_busiest(const ResolvedJob& resolved, const Graph& evaluation,
                              const Device& device, int nodes, int devices) {
  const Job& job = resolved.job;
  LOCKSTEP_ASSIGN(const Optimizer optimizer, Optimizer::create(job.optimizer));
  ExchangeOptions exchange;
  exchange.partitions = job.partitions;
  exchange.layout = SliceLayout(resolved.graph.flat_size);
  exchange.rows_of_step = [&](int64_t step) { return job.rows_of_step(step); };
  ViewRequest request;
  request.number = 1;
  request.partitions = job.partitions;
  request.slices = exchange.layout.count();
  for (int i = 0; i < nodes; ++i) {
    request.candidates.push_back({i + 1, fmt::format("node-{}", i), "", -1, false, -1, true});
  }
  const View view = make_view({}, request);
  NodePlan busiest;
  for (const Member& member : view.members) {
    NodePlan plan;
    plan.memory = planned_memory(job, resolved.graph, job.has_validation() ? &evaluation : nullptr,
                                 device, devices, optimizer, member.partitions, nodes == 1);
    if (nodes > 1) {
      plan.memory.exchange = Exchange::planned_bytes(exchange, view, member.session, device);
    }
    const int held = member.partitions.size();
    plan.partitions = (held + devices - 1) / devices;
    if (plan.partitions > busiest.partitions) busiest.partitions = plan.partitions;
    if (plan.memory.total() > busiest.memory.total()) busiest.memory = plan.memory;
  }
  return busiest;
}

Status print_plans(const ResolvedJob& resolved, const nlohmann::json& values,
                   const Device& device) {
  const Job& job = resolved.job;
  LOCKSTEP_ASSIGN(const Graph evaluation, resolved.model->evaluate_graph(objective_of(job)));
  LOCKSTEP_ASSIGN(const NodeCounts counts, parse_nodes(values.at("nodes")));
  LOCKSTEP_ASSIGN(const int given, parse_devices(values.at("devices")));
  const int here = available_devices(values.at("device"), job.numerics);
  const int64_t row = operations_of(resolved.graph);
  const int64_t rows_of_partition = (job.batch_size + job.partitions - 1) / job.partitions;
  fmt::print("{:>5} {:>7} {:>5} {:>10} {:>12}  {}\n", "nodes", "devices", "idle", "partitions",
             "operations", "MiB: weights, optimizer, gradients, exchange, activations");
  for (int nodes = counts.start; nodes <= counts.most; ++nodes) {
    const int devices = given > 0 ? given : std::max(1, here / nodes);
    LOCKSTEP_ASSIGN(const NodePlan plan,
                    plan_busiest(resolved, evaluation, device, nodes, devices));
    const int64_t rows = std::min<int64_t>(job.batch_size, plan.partitions * rows_of_partition);
    const double mib = 1 << 20;
    const NodeMemory& memory = plan.memory;
    fmt::print("{:>5} {:>7} {:>5} {:>10} {:>12}  {:.1f}: {:.1f}, {:.1f}, {:.1f}, {:.1f}, {:.1f}\n",
               nodes, nodes * devices, std::max(0, nodes * devices - job.partitions),
               plan.partitions, count_text(rows * row), memory.total() / mib, memory.weights / mib,
               memory.slots / mib, memory.gradients / mib, memory.exchange / mib,
               memory.activations / mib);
  }
  fmt::print(
      "partitions and operations of the busiest device, memory of the largest node beside "
      "its data\n");
  return {};
}

Status check(nlohmann::json values) {
  const std::string kind = values.at("device");
  std::optional<ModelFile> file;
  if (values.at("numerics") == "auto") {
    values["numerics"] = default_numerics(kind);
    if (job_of_model(values, &file).ok()) values["numerics"] = default_numerics(kind, file);
  }
  const auto resolved = resolve_job(values, build_model, std::move(file));
  if (!resolved.ok()) return all_problems(values, resolved.error());
  const Job& job = resolved->job;
  LOCKSTEP_ASSIGN(const NodeCounts counts, parse_nodes(values.at("nodes")));
  LOCKSTEP_RETURN_IF_ERROR(check_nodes(counts, job.exact));
  LOCKSTEP_RETURN_IF_ERROR(check_device(kind, job.numerics));
  LOCKSTEP_ASSIGN(const auto device, make_device(kind, job.numerics, 0));
  LOCKSTEP_ASSIGN(const Graph forward, resolved->model->predict_graph());
  const int64_t all = operations_of(resolved->graph) * job.batch_size;
  const int64_t forward_part = operations_of(forward) * job.batch_size;
  fmt::print("{} on {}: supported\n", job.model, job.data);
  for (const std::string& note : resolved->notes) fmt::print("note: {}\n", note);
  fmt::print("{} weights, {} rows, batch {}, {} steps an epoch, P = {} partitions, {}\n",
             resolved->graph.parameter_count, job.train_rows, job.batch_size, job.steps_per_epoch(),
             job.partitions, job.numerics);
  fmt::print("a step: {} operations, {} forward and {} backward; {:.1f} MiB of gradients\n",
             count_text(all), count_text(forward_part), count_text(all - forward_part),
             static_cast<double>(resolved->graph.flat_size) * 4 / (1 << 20));
  return print_plans(*resolved, values, *device);
}

}  // namespace

int run_check(const Arguments& arguments, Context&) {
  const auto options = check_options();
  if (arguments.empty() || arguments == Arguments{"--help"}) {
    fmt::print(
        "lockstep check MODEL --data PATH: whether a job can be trained, and what it takes, "
        "without training\n\n{}\nWhat is missing is told all at once, with exit code 2. "
        "--devices auto shares this machine's devices\namong the nodes, as 'train' does; with a "
        "number each node has so many.\n",
        options_help(options));
    return arguments.empty() ? 2 : 0;
  }
  const bool named = arguments[0].rfind("--", 0) != 0;
  Arguments flags(arguments.begin() + (named ? 1 : 0), arguments.end());
  if (named) flags.insert(flags.end(), {"--model", arguments[0]});
  auto values = parse_arguments(options, flags);
  if (!values.ok()) return report_error(values.error());
  std::vector<std::string> notes;
  const std::string model = values->at("model").is_string() ? values->at("model") : "";
  const auto compiled = compiled_options(model, &notes);
  if (compiled.ok()) values = parse_arguments(options, flags, *compiled);
  if (!values.ok()) return report_error(values.error());
  for (const std::string& note : notes) fmt::print("note: {}\n", note);
  const Status status = check(*values);
  return status.ok() ? 0 : report_error(status.error());
}

}  // namespace lockstep
