#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "cuda/cuda_device.h"
#include "host/cli/arguments.h"
#include "host/cli/commands.h"
#include "host/cli/factories.h"
#include "host/cli/monitoring.h"
#include "host/cli/network_options.h"
#include "host/core/process_memory.h"
#include "host/observe/log_format.h"
#include "host/observe/prometheus.h"
#include "host/runtime/node_runtime.h"

namespace lockstep {
namespace {

constexpr int64_t kMaxSeconds = 604'800;

std::vector<OptionSpec> node_options() {
  using enum OptionType;
  return {
      {"coordinator", text, "127.0.0.1:7070", "HOST:PORT", "the coordinator to join"},
      {"listen", text, "127.0.0.1:0", "HOST:PORT", "where peers reach this node's tensor streams"},
      {"advertise", text, "", "HOST:PORT", "what peers are told [as the coordinator sees it]"},
      {"name", text, "node", "NAME", "a label, for messages and the report"},
      {"data", text, "", "PATH|NAME", "where the data is on this machine [as in the job]"},
      {"validation_data", text, "", "PATH|NAME", "the same for the validation data"},
      {"first_device", integer, 0, "N", "the first of this machine's GPUs that is this node's"},
      {"connect_timeout", integer, 10, "S", "seconds to go on trying to reach the coordinator"},
      {"coordinator_timeout", integer, 1800, "S",
       "seconds to wait for a coordinator that was there and is away"}};
}

Result<int> milliseconds(const nlohmann::json& values, const std::string& key) {
  const int64_t seconds = values.at(key);
  if (seconds >= 0 && seconds <= kMaxSeconds) return static_cast<int>(seconds * 1000);
  const std::string flag = flag_name({key, OptionType::integer, {}, "", ""});
  return usage_error(fmt::format("{} {}: must be between 0 and {}", flag, seconds, kMaxSeconds));
}

Result<NodeOptions> options_from(const nlohmann::json& values) {
  NodeOptions options;
  LOCKSTEP_ASSIGN(options.coordinator, parse_address(values.at("coordinator"), "--coordinator"));
  LOCKSTEP_ASSIGN(options.listen, parse_address(values.at("listen"), "--listen"));
  options.advertise = values.at("advertise");
  if (!options.advertise.empty()) {
    LOCKSTEP_RETURN_IF_ERROR(parse_address(options.advertise, "--advertise"));
  }
  options.name = values.at("name");
  options.data = values.at("data");
  options.validation_data = values.at("validation_data");
  LOCKSTEP_ASSIGN(options.devices, parse_devices(values.at("devices")));
  LOCKSTEP_ASSIGN(options.connect_timeout_ms, milliseconds(values, "connect_timeout"));
  LOCKSTEP_ASSIGN(options.coordinator_away_ms, milliseconds(values, "coordinator_timeout"));
  const std::string kind = values.at("device");
  const int first = values.at("first_device");
  options.available_devices = [kind](const std::string& numerics) {
    return available_devices(kind, numerics);
  };
  // More nodes than GPUs share them.
  options.make_device = [kind, first](const std::string& numerics, int index) {
    return make_device(kind, numerics, (first + index) % available_devices(kind, numerics));
  };
  LOCKSTEP_ASSIGN(const Monitoring monitoring, monitoring_from(values));
  options.log = [name = options.name, gauges = options.gauges,
                 json = monitoring.json_logs](const std::string& line) {
    if (!json) {
      fmt::print(stderr, "{}: {}\n", name, line);
      return;
    }
    const uint64_t job = gauges->job;
    const LogFields fields{job == 0 ? "" : fmt::format("{:012x}", job), name, gauges->term,
                           gauges->view, gauges->step};
    fmt::print(stderr, "{}", json_log_line(fields, line, std::chrono::system_clock::now()));
  };
  return options;
}

// The GPUs that this node computes on.
nlohmann::json gpus_json(const NodeOptions& options, int first_device) {
  nlohmann::json gpus = nlohmann::json::array();
  const int count =
      std::min(options.devices > 0 ? options.devices : cuda_device_count(), cuda_device_count());
  for (int i = 0; i < count; ++i) {
    const int index = (first_device + i) % cuda_device_count();
    const GpuMemory memory = cuda_memory(index);
    if (memory.total > 0) {
      gpus.push_back({{"index", index}, {"used", memory.used}, {"total", memory.total}});
    }
  }
  return gpus;
}

// What node_metrics() takes.
nlohmann::json gauges_json(const NodeOptions& options) {
  const NodeGauges& gauges = *options.gauges;
  nlohmann::json bytes = nlohmann::json::array();
  const auto add = [&](const char* path, const char* direction, int64_t count) {
    bytes.push_back({{"path", path}, {"direction", direction}, {"bytes", count}});
  };
  add("memory", "sent", gauges.memory.sent_bytes);
  add("memory", "received", gauges.memory.received_bytes);
  add("network", "sent", gauges.network.sent_bytes);
  add("network", "received", gauges.network.received_bytes);
  return {{"node", options.name},
          {"term", gauges.term.load()},
          {"view", gauges.view.load()},
          {"step", gauges.step.load()},
          {"frames_waiting", gauges.frames_waiting.load()},
          {"resident_bytes", resident_bytes()},
          {"tensor_bytes", bytes}};
}

Result<std::unique_ptr<HttpServer>> serve_metrics(const nlohmann::json& values,
                                                  const NodeOptions& options) {
  LOCKSTEP_ASSIGN(const Monitoring monitoring, monitoring_from(values));
  const bool on_gpus = values.at("device") == "cuda";
  const int first_device = values.at("first_device");
  return serve_monitoring(
      monitoring,
      [options, on_gpus, first_device] {
        nlohmann::json json = gauges_json(options);
        if (on_gpus) json["gpus"] = gpus_json(options, first_device);
        return node_metrics(json);
      },
      [options] { return options.gauges->view > 0; });
}

}  // namespace

int run_node(const Arguments& arguments, Context& context) {
  const auto known =
      node_options() + device_options() + network_options(true) + monitoring_options();
  if (arguments == Arguments{"--help"}) {
    fmt::print(
        "lockstep node: computes a part of what a coordinator trains, measures or predicts\n\n{}\n"
        "While the coordinator is away the node goes on as far as it can, then waits. SIGTERM "
        "makes it hand over its\npartitions and leave with exit code 143. A coordinator is "
        "'lockstep coordinator', or evaluate or predict with --listen.\n",
        options_help(known));
    return 0;
  }
  const auto values = parse_arguments(known, arguments);
  if (!values.ok()) return report_error(values.error());
  auto options = options_from(*values);
  if (!options.ok()) return report_error(options.error());
  const Status network = use_network(*values, context, options->log);
  if (!network.ok()) return report_error(network.error());
  const auto metrics = serve_metrics(*values, *options);
  if (!metrics.ok()) return report_error(metrics.error());
  const auto log = options->log;
  NodeRuntime node(std::move(options).value(), *context.network);
  context.signals.on_signal([&node](int) { node.stop("stopped by a signal"); });
  const Status status = node.run();
  context.signals.forget_callback();
  if (context.signals.received() != 0) return 128 + context.signals.received();
  if (status.ok()) return 0;
  log(fmt::format("error: {}", status.error().message));
  return static_cast<int>(status.error().kind);
}

}  // namespace lockstep
