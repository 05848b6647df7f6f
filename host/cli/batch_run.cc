#include "host/cli/batch_run.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <set>

#include "host/cli/factories.h"
#include "host/cli/local_nodes.h"
#include "host/cli/network_options.h"
#include "host/core/digest.h"
#include "host/job/run_options.h"
#include "host/runtime/batch_coordinator.h"
#include "host/runtime/batch_worker.h"

namespace lockstep {
namespace {

constexpr int kEndPollMs = 20;
constexpr int kEndWithinMs = 1500;  // after a signal, whatever is under way
constexpr int kLastWordMs = 800;    // for the nodes to hear that the work is over

std::string batches_text(const BatchRange& batches) {
  return batches.size() == 1 ? fmt::format("batch {}", batches.begin)
                             : fmt::format("batches {} to {}", batches.begin, batches.end - 1);
}

// A coordinator, what it hears of its nodes, and those of them that are children of this process.
class BatchCluster {
 public:
  BatchCluster(BatchFacts facts, const BatchRun& run, ResultSink& sink, Context& context)
      : run_(run),
        context_(context),
        coordinator_(std::move(facts), run.model->weights, run.task.weights_sha256, sink,
                     [this](const BatchEvent& event) { observe(event); }) {}

  Status run() {
    LOCKSTEP_RETURN_IF_ERROR(start());
    bool stopped = false;
    while (!coordinator_.wait_for_end(kEndPollMs)) {
      if (stopped) continue;
      Status status = go_on(context_);
      if (status.ok()) status = tend();
      if (status.ok()) continue;
      coordinator_.stop(status.error().kind, status.error().message);
      stopped = true;
    }
    const Status status = coordinator_.finish(kLastWordMs);
    if (nodes_) nodes_->end();
    return status;
  }

 private:
  Status start() {
    const std::string listen = run_.values.at("listen");
    if (!listen.empty()) {
      LOCKSTEP_RETURN_IF_ERROR(use_network(run_.values, context_, [](const std::string& line) {
        fmt::print(stderr, "{}\n", line);
      }));
      LOCKSTEP_ASSIGN(const Address address, parse_address(listen, "--listen"));
      LOCKSTEP_RETURN_IF_ERROR(coordinator_.listen(*context_.network, address));
      fmt::print(stderr, "coordinator at {}:{}, waiting for nodes\n", address.host,
                 coordinator_.port());
      return {};
    }
    LOCKSTEP_RETURN_IF_ERROR(coordinator_.listen(*context_.network, {"127.0.0.1", 0}));
    LOCKSTEP_ASSIGN(const NodeCounts counts, parse_nodes(run_.values.at("nodes")));
    const std::string kind = run_.values.at("device");
    LOCKSTEP_ASSIGN(int devices, parse_devices(run_.values.at("devices")));
    if (devices == 0) {
      devices = std::max(1, available_devices(kind, run_.task.numerics) / counts.most);
    }
    nodes_.emplace(
        counts,
        [this, devices, kind](const std::string& name, int index) {
          return ChildProcess::spawn_self(node_arguments(
              {coordinator_.port(), name, index, devices, kind, run_.task.data, false}));
        },
        [](const std::string& line) { fmt::print(stderr, "{}\n", line); });
    return nodes_->start();
  }

  Status tend() {
    if (!nodes_) return {};
    LocalNodes::Seen seen;
    {
      const std::lock_guard lock(mutex_);
      seen.begun = begun_;
      seen.worked.swap(worked_);
      seen.present = present_;
    }
    const auto failure = nodes_->tend(seen);
    return failure ? Status(Error{*failure}) : Status{};
  }

  void observe(const BatchEvent& event) {
    const std::lock_guard lock(mutex_);
    if (const auto* joined = std::get_if<WorkerJoined>(&event)) {
      begun_ = true;
      present_.insert(joined->name);
      fmt::print(stderr, "node '{}' joined: session {}, {}, {} device{}\n", joined->name,
                 joined->session, joined->device, joined->devices, joined->devices == 1 ? "" : "s");
    } else if (const auto* done = std::get_if<BatchesDone>(&event)) {
      worked_.insert(done->name);
    } else if (const auto* left = std::get_if<WorkerLeft>(&event)) {
      present_.erase(left->name);
      if (left->why == "done") return;
      fmt::print(
          stderr, "node '{}' is gone: {}{}\n", left->name, left->why,
          left->given_back.empty() ? "" : "; others compute " + batches_text(left->given_back));
    }
  }

  const BatchRun& run_;
  Context& context_;
  std::mutex mutex_;
  bool begun_ = false;
  std::set<std::string> worked_;
  std::set<std::string> present_;
  std::optional<LocalNodes> nodes_;
  BatchCoordinator coordinator_;  // last: its threads call observe()
};

// In this process.
Status compute_here(const BatchRun& run, ResultSink& sink, const Context& context) {
  const std::string kind = run.values.at("device");
  const std::string& numerics = run.task.numerics;
  LOCKSTEP_ASSIGN(int devices, parse_devices(run.values.at("devices")));
  if (devices == 0) devices = available_devices(kind, numerics);
  LOCKSTEP_ASSIGN(const auto worker, make_batch_worker(run.task, *run.model->model, *run.dataset,
                                                       run.model->weights, devices, [&](int index) {
                                                         return make_device(kind, numerics, index);
                                                       }));
  std::vector<int64_t> offsets(worker->arrays().size());
  return worker->compute({0, batches_of(run.task, run.dataset->rows())},
                         [&](int array, std::string_view bytes) -> Status {
                           LOCKSTEP_RETURN_IF_ERROR(go_on(context));
                           int64_t& offset = offsets[static_cast<size_t>(array)];
                           const Status written = sink.write(array, offset, bytes);
                           offset += std::ssize(bytes);
                           return written;
                         });
}

}  // namespace

std::vector<OptionSpec> batch_run_options() {
  using enum OptionType;
  return std::vector<OptionSpec>{
             {"nodes", text, "1", "N|MIN:MAX",
              "processes on this machine that share the batches: as many as may be"},
             {"listen", text, "", "HOST:PORT",
              "wait here for up to N nodes that are started elsewhere ('lockstep node')"}} +
         device_options() + network_options(true);
}

Status check_batch_run(const nlohmann::json& values) {
  LOCKSTEP_RETURN_IF_ERROR(parse_nodes(values.at("nodes")));
  const std::string listen = values.at("listen");
  if (!listen.empty()) LOCKSTEP_RETURN_IF_ERROR(parse_address(listen, "--listen"));
  LOCKSTEP_RETURN_IF_ERROR(parse_devices(values.at("devices")));
  return {};
}

Status run_batches(BatchRun run, ResultSink& sink, Context& context) {
  LOCKSTEP_ASSIGN(const NodeCounts counts, parse_nodes(run.values.at("nodes")));
  const int nodes = counts.most;
  const int64_t batches = batches_of(run.task, run.dataset->rows());
  if (nodes > batches) {
    return usage_error(fmt::format(
        "--nodes {}: the {} rows are {} batch{} of {}; give at most {} node{}, or a smaller "
        "--batch-size",
        nodes, run.dataset->rows(), batches, batches == 1 ? "" : "es", run.task.batch_size, batches,
        batches == 1 ? "" : "s"));
  }
  const bool elsewhere = !run.values.at("listen").get<std::string>().empty();
  if (!elsewhere) {
    LOCKSTEP_RETURN_IF_ERROR(check_device(run.values.at("device"), run.task.numerics));
  }
  if (nodes == 1 && !elsewhere) return compute_here(run, sink, context);
  const std::vector<float>& weights = run.model->weights;
  run.task.weights_sha256 =
      sha256_hex({reinterpret_cast<const char*>(weights.data()), weights.size() * sizeof(float)});
  run.task.data_digest = run.dataset->digest;
  BatchFacts facts;
  facts.task = to_json(run.task).dump();
  facts.terms = {LOCKSTEP_VERSION, run.task.numerics, run.task.data_digest, ""};
  facts.batches = batches;
  facts.arrays = result_arrays(run.task, run.model->graph.output_shapes, run.dataset->rows());
  facts.max_nodes = nodes;
  return BatchCluster(std::move(facts), run, sink, context).run();
}

Status go_on(const Context& context) {
  const int signal = context.signals.received();
  if (signal == 0) return {};
  return Error{signal == SIGINT ? "ended by Ctrl-C" : "ended by SIGTERM"};
}

int run_interruptible(Context& context, const std::function<Status()>& command) {
  context.signals.end_within(kEndWithinMs);
  const Status status = command();
  if (status.ok()) return 0;
  const int code = report_error(status.error());
  const int signal = context.signals.received();
  return signal != 0 ? 128 + signal : code;
}

}  // namespace lockstep
