#include "host/cli/training.h"

#include <fmt/format.h>
#include <signal.h>

#include <chrono>
#include <cstring>

#include "host/core/digest.h"
#include "host/observe/progress.h"
#include "host/runtime/child_process.h"
#include "host/runtime/coordinator_runtime.h"
#include "host/runtime/device_team.h"
#include "host/train/output_folder.h"
#include "host/train/resolve.h"
#include "models/models.h"

namespace lockstep {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kLingerMs = 1000;
constexpr int kChildPollMs = 20;
constexpr int kChildGraceMs = 600;  // between a child's end and the coordinator's own view of it

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// One run: what the observer fills and the main thread reads after the end.
class Training {
 public:
  Training(const TrainingRequest& request, Context& context)
      : request_(request),
        context_(context),
        coordinator_([this](const CoordinatorAction& action) { observe(action); }) {}

  Result<TrainingOutcome> run();

 private:
  void observe(const CoordinatorAction& action);
  Status prepare();
  Status spawn_nodes();
  void say_plan();
  int devices_of_node() const;
  void watch();
  void end_children();
  Status write_files(const Status& status, const std::string& weights);
  Result<TrainingOutcome> outcome(const std::string& weights);

  const TrainingRequest& request_;
  Context& context_;
  const Clock::time_point begin_ = Clock::now();
  std::vector<ChildProcess> children_;
  ResolvedJob resolved_;
  std::optional<OutputFolder> folder_;
  std::optional<JobReport> report_;
  std::optional<Progress> progress_;
  double first_step_ = 0;
  double last_step_ = 0;
  std::string sha256_;
  CoordinatorRuntime coordinator_;
};

void Training::observe(const CoordinatorAction& action) {
  const double now = seconds_since(begin_);
  if (std::holds_alternative<StepDone>(action) && first_step_ == 0) first_step_ = now;
  if (std::holds_alternative<EpochDone>(action)) last_step_ = now;
  report_->observe(action);
  progress_->observe(action);
}

Status Training::prepare() {
  LOCKSTEP_ASSIGN(resolved_, resolve_job(request_.options, build_model));
  const Job& job = resolved_.job;
  if (request_.keep_files) {
    const std::string path =
        request_.output.empty() ? OutputFolder::default_path(job) : request_.output;
    LOCKSTEP_ASSIGN(folder_, OutputFolder::open(path, job));
  }
  report_.emplace(job, !request_.ledger.empty());
  progress_.emplace(job, stderr, begin_);
  say_plan();
  return {};
}

void Training::say_plan() {
  const Job& job = resolved_.job;
  progress_->line(fmt::format(
      "{} on {}: {} weights, {} rows, batch {}, {} steps an epoch, P = {} partitions, {}",
      job.model, job.data, resolved_.graph.parameter_count, job.train_rows, job.batch_size,
      job.steps_per_epoch(), job.partitions, job.numerics));
  const int of_node = devices_of_node();
  const int devices = request_.nodes * of_node;
  if (devices > job.partitions) {
    progress_->line(fmt::format(
        "note: {} nodes of {} device{} are more devices than the {} partitions of a batch: {} will "
        "idle. Use fewer, or --partitions {} (other bits) where the batch is large enough",
        request_.nodes, of_node, of_node > 1 ? "s" : "", job.partitions, devices - job.partitions,
        job.partitions * 2));
  }
}

// A fair share of this machine where the request does not say; nodes elsewhere count as one.
int Training::devices_of_node() const {
  if (request_.devices > 0) return request_.devices;
  return request_.spawn_nodes ? std::max(1, available_cpus() / request_.nodes) : 1;
}

Status Training::spawn_nodes() {
  for (int index = 0; request_.spawn_nodes && index < request_.nodes; ++index) {
    LOCKSTEP_ASSIGN(
        auto child,
        ChildProcess::spawn_self(
            {"node", "--coordinator", fmt::format("127.0.0.1:{}", coordinator_.port()), "--listen",
             "127.0.0.1:0", "--name", fmt::format("node-{}", index), "--devices",
             std::to_string(devices_of_node()), "--device", request_.device, "--data",
             request_.options.at("data").get<std::string>()}));
    children_.push_back(std::move(child));
  }
  return {};
}

Result<TrainingOutcome> Training::run() {
  LOCKSTEP_RETURN_IF_ERROR(coordinator_.listen(context_.network, request_.listen));
  // The nodes read their data while this process reads its own.
  LOCKSTEP_RETURN_IF_ERROR(spawn_nodes());
  LOCKSTEP_RETURN_IF_ERROR(prepare());
  const std::string recipe = recipe_sha256(resolved_.job);
  coordinator_.start(cluster_facts(resolved_, request_.nodes, !request_.ledger.empty()),
                     resolved_.graph.parameter_count * 4);
  if (!request_.spawn_nodes) {
    progress_->line(fmt::format("coordinator at {}:{}, waiting for {} node{}", request_.listen.host,
                                coordinator_.port(), request_.nodes,
                                request_.nodes == 1 ? "" : "s"));
  }
  context_.signals.on_signal([this](int number) {
    coordinator_.stop(ErrorKind::failed,
                      fmt::format("ended by {}", number == SIGINT ? "Ctrl-C" : "SIGTERM"));
  });
  watch();
  context_.signals.forget_callback();
  CoordinatorResult result = coordinator_.finish(kLingerMs);
  end_children();
  LOCKSTEP_RETURN_IF_ERROR(write_files(result.status, result.weights));
  if (!result.status.ok()) return result.status.error();
  return outcome(result.weights);
}

void Training::watch() {
  std::optional<Clock::time_point> child_ended;
  while (!coordinator_.wait_for_end(kChildPollMs)) {
    for (size_t index = 0; index < children_.size() && !child_ended; ++index) {
      if (children_[index].poll()) child_ended = Clock::now();
    }
    if (!child_ended || seconds_since(*child_ended) * 1000 < kChildGraceMs) continue;
    coordinator_.stop(ErrorKind::failed,
                      "a node process ended before the job was done; its message stands above");
  }
}

void Training::end_children() {
  for (ChildProcess& child : children_) {
    if (!child.wait(200)) child.signal(SIGKILL);
  }
  children_.clear();
}

Status Training::write_files(const Status& status, const std::string& weights) {
  sha256_ = status.ok() ? sha256_hex(weights) : "";
  const bool halted = !status.ok() && status.error().kind == ErrorKind::halted;
  report_->finish(status.ok() ? "completed"
                  : halted    ? "halted"
                              : "failed",
                  status.ok() ? "all epochs done" : status.error().message, sha256_,
                  last_step_ - first_step_);
  if (status.ok() && !request_.ledger.empty()) {
    LOCKSTEP_RETURN_IF_ERROR(write_file_atomically(request_.ledger, report_->ledger()));
  }
  if (!folder_) return {};
  if (status.ok()) {
    LOCKSTEP_RETURN_IF_ERROR(
        folder_->write_weights(resolved_.graph, weights, recipe_sha256(resolved_.job)));
    progress_->line(fmt::format("results in {}", folder_->path()));
  }
  const Status written = folder_->write_report(*report_);
  return status.ok() ? written : Status{};  // the job's own failure is the one to tell
}

Result<TrainingOutcome> Training::outcome(const std::string& weights) {
  TrainingOutcome result;
  result.weights_sha256 = sha256_;
  result.weights.resize(weights.size() / sizeof(float));
  std::memcpy(result.weights.data(), weights.data(), weights.size());
  result.job = resolved_.job;
  result.seconds = last_step_ - first_step_;
  result.seconds_to_first_step = first_step_;
  return result;
}

}  // namespace

Result<TrainingOutcome> run_training(const TrainingRequest& request, Context& context) {
  Training training(request, context);
  return training.run();
}

}  // namespace lockstep
