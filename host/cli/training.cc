#include "host/cli/training.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>

#include "host/cli/factories.h"
#include "host/cli/training_run.h"
#include "host/core/digest.h"
#include "host/core/files.h"
#include "host/optim/optimizer.h"
#include "host/runtime/clock.h"
#include "host/runtime/device_team.h"
#include "host/train/trained_model.h"
#include "models/models.h"

namespace lockstep {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kLingerMs = 1000;
constexpr int kPollMs = 20;
constexpr double kInterruptS = 1.0;  // for the state of the last step to become durable
constexpr int kDecisionPollMs = 2;   // somebody outside has the nodes wait

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

void Training::observe(const CoordinatorAction& action) {
  const std::lock_guard lock(mutex_);
  const double now = seconds_since(begin_);
  if (std::holds_alternative<StepDone>(action) && first_step_ == 0) first_step_ = now;
  if (std::holds_alternative<EpochRecord>(action)) last_step_ = now;
  if (const auto* joined = std::get_if<NodeJoined>(&action)) {
    present_[joined->member.session] = joined->member.name;
  } else if (const auto* left = std::get_if<NodeLeft>(&action)) {
    present_.erase(left->session);
  } else if (const auto* samples = std::get_if<SamplesConsumed>(&action)) {
    const auto found = present_.find(samples->session);
    if (found != present_.end()) worked_.insert(found->second);
  }
  const auto* checkpoint = std::get_if<CheckpointDone>(&action);
  if (checkpoint != nullptr) {
    newest_ = *checkpoint;
    if (request_.epoch_models && !decider_) to_export_.push_back(*checkpoint);
  }
  begun_ = begun_ || std::holds_alternative<ViewMade>(action);
  report_->observe(action);
  store_.files().observe(action);
  if (epoch_files_) epoch_files_->observe(action);
  if (saved_models_) saved_models_->observe(action, *report_);
  progress_->observe(action);
  if (events_) events_->observe(action);
  monitor_->observe(action, now);
}

nlohmann::json Training::describe() {
  const std::lock_guard lock(mutex_);
  return monitor_ ? monitor_->json(seconds_since(begin_)) : nlohmann::json::object();
}

Status Training::serve_metrics() {
  const auto status = [this] { return nlohmann::json::parse(coordinator_.status()); };
  LOCKSTEP_ASSIGN(metrics_,
                  serve_monitoring(
                      request_.monitoring, [status] { return coordinator_metrics(status()); },
                      [status] { return status().at("phase") != "preparing"; }));
  return {};
}

void Training::say(const std::string& line) {
  const std::lock_guard lock(mutex_);
  progress_->line(line);
}

Status Training::prepare() {
  LOCKSTEP_ASSIGN(resolved_, resolve_job(request_.options, build_model));
  const Job& job = resolved_.job;
  LOCKSTEP_RETURN_IF_ERROR(store_.open(request_, job));
  if (!resolved_.initial_state.empty()) {
    LOCKSTEP_RETURN_IF_ERROR(store_.journal().begin_with(resolved_.initial_state));
    resolved_.initial_state = {};  // the journal has it
  }
  report_.emplace(job, request_.run.keep_ledger, !request_.decisions.empty());
  report_->resume(store_.journal().recovered());
  LOCKSTEP_RETURN_IF_ERROR(store_.open_files(request_, *report_));
  if (store_.folder()) {
    LOCKSTEP_ASSIGN(const std::string model_json, keras_json());
    LOCKSTEP_ASSIGN(epoch_files_,
                    EpochFiles::open(file_system_, job, store_.folder()->path(),
                                     fmt::format("{}.{}", std::time(nullptr), ::getpid()),
                                     model_json, *report_));
    LOCKSTEP_ASSIGN(saved_models_, SavedModels::open(job, store_.folder()->path(),
                                                     store_.journal().recovered(), *report_));
  }
  {
    const std::lock_guard lock(mutex_);
    monitor_.emplace(job);
  }
  progress_.emplace(job, stderr, begin_, request_.monitoring.json_logs);
  progress_->set_term(store_.journal().term());
  if (request_.events != nullptr) {
    events_.emplace(job, *request_.events);
    events_->resolved(resolved_.graph.parameter_count,
                      store_.folder() ? store_.folder()->path() : "");
  }
  if (store_.resumes()) {
    progress_->resumed(store_.journal().term(), store_.journal().recovered().view);
  }
  say_plan();
  for (const std::string& text : request_.notes) note(text);
  for (const std::string& text : resolved_.notes) note(text);
  for (const std::string& text : store_.journal().notes()) note(text);
  return {};
}

void Training::note(const std::string& text) {
  progress_->line("note: " + text);
  if (request_.events != nullptr) request_.events->say("note", {{"text", text}});
}

void Training::say_plan() {
  const Job& job = resolved_.job;
  progress_->line(fmt::format(
      "{} on {}: {} weights, {} rows, batch {}, {} steps an epoch, P = {} partitions, {}",
      job.model, job.data, resolved_.graph.parameter_count, job.train_rows, job.batch_size,
      job.steps_per_epoch(), job.partitions, job.numerics));
  if (!job.exact) {
    note(
        "exact off: NCCL adds the gradients of the node's GPUs in an order of its own: the "
        "weights' bits depend on how many GPUs there are, how they are connected, and NCCL's "
        "version");
  }
  const int nodes = request_.run.nodes.most;
  const int of_node = devices_of_node();
  const int devices = nodes * of_node;
  if (devices > job.partitions) {
    note(fmt::format(
        "{} nodes of {} device{} are more devices than the {} partitions of a batch: {} will "
        "idle. Use fewer, or --partitions {} (other bits) where the batch is large enough",
        nodes, of_node, of_node > 1 ? "s" : "", job.partitions, devices - job.partitions,
        job.partitions * 2));
  }
}

// A fair share of this machine where the request does not say; nodes elsewhere count as one.
int Training::devices_of_node() const {
  if (request_.devices > 0) return request_.devices;
  if (!request_.spawn_nodes) return 1;
  return std::max(1, available_devices(request_.device, request_.options.at("numerics")) /
                         request_.run.nodes.most);
}

Status Training::start_nodes() {
  if (!request_.spawn_nodes) return {};
  nodes_.emplace(
      request_.run.nodes,
      [this](const std::string& name, int index) {
        return ChildProcess::spawn_self(node_arguments(
            {coordinator_.port(), name, index, devices_of_node(), request_.device,
             request_.options.at("data").get<std::string>(), request_.monitoring.json_logs}));
      },
      [this](const std::string& line) { say(line); });
  return nodes_->start();
}

Status Training::start_coordinator() {
  LOCKSTEP_ASSIGN(const auto optimizer, Optimizer::create(resolved_.job.optimizer));
  const auto vectors = static_cast<int64_t>(1 + optimizer.slots().size());
  if (!request_.spawn_nodes) {
    const int nodes = request_.run.nodes.start;
    progress_->line(fmt::format("coordinator at {}:{}, waiting for {} node{}", request_.listen.host,
                                coordinator_.port(), nodes, nodes == 1 ? "" : "s"));
  }
  ClusterFacts facts = cluster_facts(resolved_, request_.run);
  const RecoveredJob& recovered = store_.journal().recovered();
  if (!recovered.checkpoints.empty()) {
    const StateRef& newest = recovered.checkpoints.back().state;
    newest_ = {newest.step, newest.object};
  }
  if (decider_) {
    decider_->recall(recovered.epochs);
    decider_->take_part(resolved_.job, &facts);
  }
  coordinator_.start(facts, store_.journal(),
                     state_bytes(resolved_.graph.parameter_count, vectors, facts.metric_sums),
                     !request_.spawn_nodes);
  return {};
}

Result<TrainingOutcome> Training::run() {
  if (!request_.decisions.empty()) {
    LOCKSTEP_ASSIGN(decider_,
                    OutsideDecider::open(request_.decisions, request_.decision_timeout_s));
  }
  LOCKSTEP_RETURN_IF_ERROR(coordinator_.listen(*context_.network, request_.listen));
  LOCKSTEP_RETURN_IF_ERROR(serve_metrics());
  // The nodes read their data while this process reads its own.
  LOCKSTEP_RETURN_IF_ERROR(start_nodes());
  LOCKSTEP_RETURN_IF_ERROR(prepare());
  LOCKSTEP_RETURN_IF_ERROR(start_coordinator());
  context_.signals.on_signal([this](int number) {
    coordinator_.interrupt(fmt::format("ended by {}", number == SIGINT ? "Ctrl-C" : "SIGTERM"));
  });
  watch();
  context_.signals.forget_callback();
  const CoordinatorResult result = coordinator_.finish(kLingerMs);
  if (nodes_) nodes_->end();
  LOCKSTEP_RETURN_IF_ERROR(export_interrupted());
  LOCKSTEP_RETURN_IF_ERROR(save_models());
  LOCKSTEP_RETURN_IF_ERROR(write_histograms());
  const auto state = final_state(result);
  const Status status = state.ok() ? Status{} : Status{state.error()};
  LOCKSTEP_RETURN_IF_ERROR(write_files(status, state.ok() ? *state : StateView{}));
  if (!status.ok()) return status.error();
  return outcome(*state);
}

void Training::watch() {
  bool stopped = false;
  std::optional<Clock::time_point> signalled;
  while (!coordinator_.wait_for_end(decider_ ? kDecisionPollMs : kPollMs)) {
    if (stopped) continue;
    auto error = look_around();
    if (!signalled && context_.signals.received() != 0) signalled = Clock::now();
    if (signalled && seconds_since(*signalled) > kInterruptS) error = Error{"ended by a signal"};
    if (!error) continue;
    coordinator_.stop(error->kind, error->message);
    stopped = true;
  }
}

// Why the job must end, if it must.
std::optional<Error> Training::look_around() {
  LocalNodes::Seen seen;
  int64_t steps = 0;
  {
    const std::lock_guard lock(mutex_);
    if (const auto& failure = store_.files().failure()) return failure;
    if (epoch_files_ && epoch_files_->failure()) return epoch_files_->failure();
    if (saved_models_ && saved_models_->failure()) return saved_models_->failure();
    seen.begun = begun_;
    seen.worked.swap(worked_);
    for (const auto& [session, name] : present_) seen.present.insert(name);
    steps = report_->steps();
  }
  for (const Status& status : {export_models(), save_models(), write_histograms(), ask_outside(),
                               flush_events(), hear_outside()}) {
    if (!status.ok()) return status.error();
  }
  if (!nodes_) return std::nullopt;
  if (request_.kill_node_at_step && faults_.empty() && steps >= *request_.kill_node_at_step) {
    const auto killed = nodes_->kill_one();
    if (killed) faults_ = fmt::format("{} killed at step {}", *killed, steps);
  }
  const auto failure = nodes_->tend(seen);
  return failure ? std::optional(Error{*failure}) : std::nullopt;
}

// Views into `result`. The weights are the first vector of the state, or the moving average that
// the optimizer keeps, unless a callback has restored the weights of an epoch after it, as in
// Keras.
Result<StateView> Training::final_state(const CoordinatorResult& result) {
  LOCKSTEP_RETURN_IF_ERROR(result.status);
  LOCKSTEP_ASSIGN(StateView state, decode_state(result.state));
  if (state.vectors.empty() || state.header.parameters != resolved_.graph.parameter_count) {
    return Error{"the final state is not one of this model"};
  }
  if (report_->restores_best()) return state;
  return with_averages(resolved_.job, resolved_.graph.parameters, state, &averaged_);
}

// Asks for the decision that the nodes wait for, once the model that it may be taken from is there.
Status Training::ask_outside() {
  const auto epoch = decider_ ? decider_->unasked() : std::nullopt;
  if (!epoch) return {};
  if (request_.epoch_models && store_.folder()) {
    const CheckpointDone newest = copy_of(newest_);
    const int64_t end = epoch->last_state(resolved_.job.steps_per_epoch());
    if (newest.step < end) return {};
    LOCKSTEP_RETURN_IF_ERROR(
        export_model(newest, epoch->epoch, fmt::format("epoch-{}", epoch->epoch + 1)));
  }
  const std::lock_guard lock(mutex_);
  if (events_) events_->ask(*epoch);
  decider_->asked(monotonic_ms());
  return {};
}

Status Training::hear_outside() {
  if (!decider_) return {};
  LOCKSTEP_ASSIGN(const bool answered, decider_->read(monotonic_ms()));
  if (answered) coordinator_.wake();
  return {};
}

Status Training::flush_events() {
  if (request_.events == nullptr) return {};
  const std::lock_guard lock(mutex_);
  return request_.events->flush();
}

Status Training::write_files(const Status& status, const StateView& state) {
  sha256_ = status.ok() ? sha256_hex(state.vectors[0]) : "";
  const bool halted = !status.ok() && status.error().kind == ErrorKind::halted;
  report_->finish(status.ok() ? "completed"
                  : halted    ? "halted"
                              : "failed",
                  status.ok() ? "" : status.error().message, sha256_,
                  std::max(0.0, last_step_ - first_step_));
  store_.files().flush();
  if (status.ok() && report_->ledger() != nullptr) {
    LOCKSTEP_RETURN_IF_ERROR(write_file_atomically(request_.ledger, report_->ledger()->text()));
  }
  const auto& folder = store_.folder();
  if (!folder) return {};
  if (status.ok()) {
    LOCKSTEP_RETURN_IF_ERROR(folder->write_weights(resolved_.graph, std::string(state.vectors[0]),
                                                   recipe_sha256(resolved_.job)));
    LOCKSTEP_ASSIGN(const std::string file, keras_file(state, report_->decided_epochs()));
    LOCKSTEP_RETURN_IF_ERROR(folder->write_model(file));
    progress_->line(fmt::format("results in {}", folder->path()));
  } else {
    progress_->line(fmt::format("the state is kept in {}: {} goes on from it", store_.state_path(),
                                request_.spawn_nodes ? fmt::format("'lockstep train --resume "
                                                                   "--output {}'",
                                                                   folder->path())
                                                     : "the same command"));
  }
  const Status written = folder->write_report(*report_);
  return status.ok() ? written : Status{};  // the job's own failure is the one to tell
}

Result<TrainingOutcome> Training::outcome(const StateView& state) {
  const std::span<const float> weights = floats_of(state.vectors[0]);
  TrainingOutcome result;
  result.weights_sha256 = sha256_;
  result.weights.assign(weights.begin(), weights.end());
  result.job = resolved_.job;
  result.seconds = std::max(0.0, last_step_ - first_step_);
  result.seconds_to_first_step = first_step_;
  result.faults = faults_;
  return result;
}

Result<TrainingOutcome> run_training(const TrainingRequest& request, Context& context) {
  Training training(request, context);
  return training.run();
}

}  // namespace lockstep
