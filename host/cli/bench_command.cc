#include <fmt/format.h>

#include <algorithm>

#include "cuda/cuda_device.h"
#include "host/cli/arguments.h"
#include "host/cli/bench_average.h"
#include "host/cli/commands.h"
#include "host/cli/factories.h"
#include "host/cli/training.h"
#include "host/core/process_memory.h"
#include "host/cpu/cpu_device.h"
#include "host/graph/operations.h"
#include "host/job/data_job.h"
#include "host/runtime/device_bench.h"
#include "host/train/resolve.h"
#include "models/models.h"

namespace lockstep {
namespace {

std::vector<OptionSpec> bench_options() {
  using enum OptionType;
  return {
      {"model", text, "seed-cnn", "NAME", "of 'step': seed-cnn, mlp, lenet, resnet20, resnet50"},
      {"batch_size", integer, 32, "B", "rows of a global batch"},
      {"partitions", integer, 0, "P", "partitions (0: the default)"},
      {"numerics", text, std::string(widest_cpu_numerics()), "NAME", "numerics (the CPU's widest)"},
      {"devices", integer, 2, "N", "threads of a node"},
      {"nodes", integer, 2, "N", "nodes or processes"},
      {"steps", integer, 200, "N", "steps that are measured"},
      {"digests", boolean, true, "", "of 'step': hash each new state, as jobs do"},
      {"exact", text, "on", "on|off", "of 'step': as of 'train'"},
      {"graphs", boolean, true, "", "of 'step': replay CUDA graphs, as jobs do"},
      {"megabytes", integer, 25, "M", "size of the averaged or moved vector"},
      {"rounds", integer, 20, "R", "averages or moves that are measured"},
      {"transport", text, "shared-memory", "NAME", "of 'average': shared-memory or tcp"},
      {"folder", text, "", "DIR", "where the processes of 'average' meet"},
      {"index", integer, 0, "I", "which of them this is"}};
}

// Images of the size that a model of this name is known for: MNIST's, CIFAR-10's, ImageNet's.
Shape image_shape(const std::string& model) {
  if (model == "resnet20") return {32, 32, 3};
  if (model == "resnet50") return {224, 224, 3};
  return {28, 28, 1};
}

nlohmann::json step_result(const Job& job, int devices, int64_t steps, double seconds) {
  return {{"batch_size", job.batch_size},
          {"partitions", job.partitions},
          {"devices", devices},
          {"numerics", job.numerics},
          {"steps", steps},
          {"seconds_per_step", seconds},
          {"images_per_second", static_cast<double>(job.batch_size) / seconds}};
}

Result<nlohmann::json> job_options_for(const nlohmann::json& values, const std::string& data,
                                       int64_t epochs) {
  return parse_arguments(
      job_options(),
      {"--model", values.at("model").get<std::string>(), "--data", data, "--epochs",
       std::to_string(epochs), "--batch-size", values.at("batch_size").dump(), "--partitions",
       values.at("partitions").dump(), "--numerics", values.at("numerics").get<std::string>(),
       "--exact", values.at("exact").get<std::string>()});
}

// As make_device, or with kernels that are launched one by one.
Result<std::unique_ptr<Device>> make_bench_device(const nlohmann::json& values,
                                                  const std::string& numerics, int index) {
  if (values.at("graphs") == true) return make_device("auto", numerics, index);
  if (!numerics.starts_with("cuda-")) {
    return usage_error("--no-graphs: numerics " + numerics +
                       " have none; use --numerics cuda-fp32");
  }
  return make_cuda_device(index, numerics, {.replays = false});
}

Result<nlohmann::json> bench_step(const nlohmann::json& values, Context&) {
  LOCKSTEP_ASSIGN(const auto options, job_options_for(values, "random", 1'000'000));
  LOCKSTEP_ASSIGN(Job job, job_from_options(options));
  const std::string name = values.at("model");
  const Dataset data = random_dataset(image_shape(name), job.batch_size * 8);
  job.input_shape = data.row_shape;
  job.classes = data.classes;
  job.train_rows = data.rows();
  LOCKSTEP_ASSIGN(const auto model, build_model(name, job.input_shape, job.classes));
  if (values.at("partitions") == 0) {
    LOCKSTEP_ASSIGN(const Graph graph, model->training_graph(objective_of(job)));
    job.partitions = default_partitions(graph, job.batch_size);
  }
  const int64_t own_before = own_bytes();
  const int devices = values.at("devices");
  LOCKSTEP_ASSIGN(auto replica, Replica::create(job, *model, devices, [&](int index) {
                    return make_bench_device(values, job.numerics, index);
                  }));
  const int64_t steps = values.at("steps");
  LOCKSTEP_ASSIGN(const StepSeconds seconds,
                  measure_steps(*replica, job, data, steps, values.at("digests")));
  auto result = step_result(job, devices, steps, seconds.step);
  result["update_seconds"] = seconds.update;
  result["flops_per_step"] = static_cast<double>(operations_of(replica->graph()) * job.batch_size);
  result["planned_bytes"] = replica->memory({0, job.partitions}, true).total();
  result["used_bytes"] = own_bytes() - own_before;
  return result;
}

Result<nlohmann::json> bench_links(const nlohmann::json& values, Context&) {
  const std::string numerics = values.at("numerics");
  LOCKSTEP_ASSIGN(const auto team, DeviceTeam::create(values.at("devices"), [&](int index) {
                    return make_bench_device(values, numerics, index);
                  }));
  const int64_t floats = values.at("megabytes").get<int64_t>() * (1 << 20) / 4;
  LOCKSTEP_ASSIGN(const LinkSpeed speed, measure_links(*team, floats, values.at("rounds")));
  return nlohmann::json{{"devices", team->size()},
                        {"way", team->way()},
                        {"all_gather_seconds", speed.all_gather_seconds},
                        {"all_reduce_seconds", speed.all_reduce_seconds},
                        {"all_gather_bus_bytes_per_second", speed.all_gather_bytes},
                        {"all_reduce_bus_bytes_per_second", speed.all_reduce_bytes}};
}

Result<nlohmann::json> bench_cluster(const nlohmann::json& values, Context& context) {
  const int64_t batch_size = values.at("batch_size");
  const int64_t steps = values.at("steps");
  // Two epochs, and with them two checkpoints, as a job has; more would measure the disk.
  const int64_t epochs = 2;
  const int64_t rows = std::max<int64_t>(4096, steps * batch_size / epochs);
  LOCKSTEP_ASSIGN(auto options, job_options_for(values, fmt::format("digits:{}", rows), epochs));
  TrainingRequest request;
  request.options = options;
  const int nodes = values.at("nodes");
  request.run.nodes = {nodes, 1, nodes};
  request.run.checkpoint_every = {0, 0};
  request.devices = values.at("devices");
  request.keep_files = false;
  LOCKSTEP_ASSIGN(const TrainingOutcome outcome, run_training(request, context));
  const int64_t measured = outcome.job.total_steps() - 1;  // between the first and the last
  auto result = step_result(outcome.job, request.devices, measured,
                            outcome.seconds / static_cast<double>(measured));
  result["nodes"] = nodes;
  return result;
}

Result<nlohmann::json> bench_peak(const nlohmann::json& values, Context&) {
  return nlohmann::json{
      {"gflops", measure_fma_peak(values.at("numerics").get<std::string>(), values.at("devices"))}};
}

struct Bench {
  const char* name;
  const char* help;
  Result<nlohmann::json> (*run)(const nlohmann::json&, Context&);
};

constexpr Bench kBenches[] = {
    {"step", "a model's training step in one process", bench_step},
    {"cluster", "seed-cnn with a coordinator and nodes over loopback", bench_cluster},
    {"average", "one vector summed and averaged among processes", bench_average},
    {"average-process", "one of the processes of 'average'", bench_average_process},
    {"links", "the links between GPUs of this machine", bench_links},
    {"peak", "this machine's FP32 FMA peak", bench_peak},
};

}  // namespace

int run_bench(const Arguments& arguments, Context& context) {
  for (const Bench& bench : kBenches) {
    if (arguments.empty() || arguments[0] != bench.name) continue;
    const auto values =
        parse_arguments(bench_options(), Arguments(arguments.begin() + 1, arguments.end()));
    if (!values.ok()) return report_error(values.error());
    const auto result = bench.run(*values, context);
    if (!result.ok()) return report_error(result.error());
    fmt::print("{}\n", result->dump());
    return 0;
  }
  fmt::print("lockstep bench NAME: measures this build and prints one line of JSON\n\n");
  for (const Bench& bench : kBenches) fmt::print("  {:<16} {}\n", bench.name, bench.help);
  fmt::print("\n{}", options_help(bench_options()));
  return arguments == Arguments{"--help"} ? 0 : 2;
}

}  // namespace lockstep
