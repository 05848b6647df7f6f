#include "host/runtime/node_session.h"

#include <fmt/format.h>

#include <unistd.h>

#include <chrono>

#include "host/core/digest.h"
#include "host/core/process_memory.h"
#include "host/job/data_job.h"
#include "host/nn/model_config.h"
#include "host/runtime/clock.h"

namespace lockstep {
namespace {

constexpr int kLookMs = 100;  // how long the main thread sleeps without looking around
constexpr int kLeavePatienceMs = 20'000;

uint64_t recipe_key(const Job& job) {
  const std::string recipe = recipe_sha256(job);
  return xxh3(recipe.data(), recipe.size());
}

}  // namespace

NodeSession::NodeSession(NodeOptions options, Network& network)
    : options_(std::move(options)), network_(network) {}

NodeSession::~NodeSession() { shut_down(); }

Status NodeSession::run() {
  // The data is read while the coordinator may still be starting; load() speaks of errors.
  if (!options_.data.empty()) {
    auto data = load_dataset(options_.data, Split::train);
    if (data.ok()) data_.train = std::move(data).value();
  }
  LOCKSTEP_RETURN_IF_ERROR(connect());
  if (is_batch_task(nlohmann::json::parse(welcome_.job, nullptr, false))) return run_batches();
  Status status = load();
  if (status.ok()) status = join();
  if (!status.ok()) {
    static_cast<void>(control_->report_fault({welcome_.session, 0, 0, status.error().message}));
  } else {
    status = work();
  }
  shut_down();
  return status;
}

Status NodeSession::connect() {
  int64_t deadline = monotonic_ms() + options_.connect_timeout_ms;
  int pause_ms = 20;
  std::string failure;
  while (true) {
    auto client = network_.connect_control(options_.coordinator, kConnectMs);
    if (client.ok()) {
      control_ = std::move(client).value();
      auto welcome = control_->hello({kWireVersion, LOCKSTEP_VERSION, options_.name});
      if (welcome.ok()) {
        welcome_ = *welcome;
        options_.gauges->term = welcome_.term;
        return {};
      }
      if (welcome.error().kind == ErrorKind::refused) return welcome.error();
      if (control_->answered()) {
        // It is there, and still prepares the job: that may take as long as its data is large.
        deadline = monotonic_ms() + options_.connect_timeout_ms;
      }
      failure = welcome.error().message + "; if it runs with --tls, a node needs it too";
    } else if (client.error().kind == ErrorKind::refused) {
      return client.error();
    } else {
      failure = client.error().message;
    }
    {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, std::chrono::milliseconds(pause_ms), [&] { return over_; });
      if (over_) return Error{"stopped"};
    }
    if (monotonic_ms() > deadline) {
      return Error{
          fmt::format("no coordinator at {} after {} s of trying ({}); start one with "
                      "'lockstep coordinator', or check --coordinator",
                      options_.coordinator.text(), options_.connect_timeout_ms / 1000, failure)};
    }
    const bool early = monotonic_ms() < deadline - options_.connect_timeout_ms / 2;
    pause_ms = std::min(pause_ms * 2, early ? 50 : 1000);
  }
}

Status NodeSession::run_batches() {
  data_ = {};
  {
    const std::lock_guard lock(mutex_);
    if (over_) return Error{"stopped"};
    batches_ = std::make_unique<BatchNode>(options_, network_, *control_, welcome_);
  }
  return batches_->run();
}

Status NodeSession::load() {
  nlohmann::json json = nlohmann::json::parse(welcome_.job, nullptr, false);
  if (json.is_discarded()) return Error{"the coordinator sent a job that is not JSON"};
  LOCKSTEP_ASSIGN(job_, job_from_json(json));
  options_.gauges->job = std::stoull(recipe_sha256(job_).substr(0, 12), nullptr, 16);
  keep_ledger_ = json.value("ledger", false);
  digests_ = json.value("verify_every", int64_t{1}) > 0;
  checkpoint_rule_.every_ms = json.value("checkpoint_every_ms", checkpoint_rule_.every_ms);
  checkpoint_rule_.every_steps = json.value("checkpoint_every_steps", checkpoint_rule_.every_steps);
  const std::string data = options_.data.empty() ? job_.data : options_.data;
  const std::string validation =
      options_.validation_data.empty() ? job_.validation_data : options_.validation_data;
  LOCKSTEP_ASSIGN(data_, load_job_data(job_, data, validation, std::move(data_.train)));
  own_before_ = own_bytes();
  LOCKSTEP_ASSIGN(const auto model, model_from_config(job_.model_config));
  const int devices =
      options_.devices > 0 ? options_.devices : options_.available_devices(job_.numerics);
  LOCKSTEP_ASSIGN(replica_, Replica::create(job_, *model, devices, [this](int index) {
                    return options_.make_device(job_.numerics, index);
                  }));
  return {};
}

void NodeSession::make_loaders() {
  const auto make = [this](const Dataset& data, LoaderOptions options) {
    options.devices = replica_->device_list();
    return std::make_unique<BatchLoader>(data, std::move(options));
  };
  loader_ = make(data_.train, training_loader(job_, data_.train_rows));
  if (!job_.has_validation()) return;
  validation_loader_ = make(data_.validation(), measuring_loader(job_, data_.validation_rows));
}

Status NodeSession::join() {
  JoinRequest request;
  request.session = welcome_.session;
  request.devices = replica_->devices();
  request.device = replica_->device_description();
  request.numerics = replica_->adder().numerics();
  request.data_digest = data_.train.digest;
  request.validation_digest = data_.validation_set.digest;
  if (request.data_digest == job_.data_digest) {
    LOCKSTEP_ASSIGN(request.canary, replica_->canary(data_.train, data_.train_rows));
  }
  PeerLinksOptions links;
  links.recipe = recipe_key(job_);
  links.gauges = options_.gauges;
  links.unreachable = [this](SessionId peer, const std::string& why) {
    coordinator_->report_fault({welcome_.session, peer, 0, "cannot be reached: " + why});
  };
  links_ = std::make_unique<PeerLinks>(network_, std::move(links));
  links_->set_session(welcome_.session);
  LOCKSTEP_ASSIGN(const int port, links_->listen(options_.listen));
  request.address = options_.advertise.empty() ? fmt::format(":{}", port) : options_.advertise;
  LOCKSTEP_RETURN_IF_ERROR(enter(std::move(request)));
  transfer_ = std::make_unique<StateTransfer>(
      *replica_, [this](SessionId to, Frame frame) { links_->send(to, std::move(frame)); },
      [this] { exchange_->interrupt(); });
  machine_ =
      std::make_unique<NodeMachine>(welcome_.session, job_.steps_per_epoch(), checkpoint_rule_);
  make_loaders();
  const std::lock_guard lock(mutex_);
  if (over_) return Error{"stopped"};
  CoordinatorLinkOptions link;
  link.coordinator = options_.coordinator;
  link.session = welcome_.session;
  link.term = welcome_.term;
  link.away_ms = options_.coordinator_away_ms;
  link.arrived = [this] {
    if (Exchange* exchange = exchange_to_wake_.load()) exchange->interrupt();
  };
  coordinator_ = std::make_unique<CoordinatorLink>(network_, std::move(link));
  return {};
}

// As another session where the coordinator is away, or has come back since it said hello.
Status NodeSession::enter(JoinRequest request) {
  Status joined = control_->join(request);
  if (joined.ok() || joined.error().kind == ErrorKind::refused) return joined;
  const std::string job = welcome_.job;
  LOCKSTEP_RETURN_IF_ERROR(connect());
  if (welcome_.job != job) {
    return Error{"the job has changed while this node loaded it: start the node again"};
  }
  request.session = welcome_.session;
  links_->set_session(welcome_.session);
  return control_->join(request);
}

Status NodeSession::work() {
  while (true) {
    take_events();
    const NodeAction action = machine_->next(monotonic_ms());
    if (const auto* leaving = std::get_if<LeaveJob>(&action)) {
      log_memory_used();
      if (leaving->completed) return {};
      return Error{leaving->reason, leaving->kind};
    }
    const Status status = perform(action);
    if (status.ok()) continue;
    take_events();
    if (machine_->stopping()) continue;
    static_cast<void>(
        control_->report_fault({welcome_.session, 0, machine_->step(), status.error().message}));
    machine_->fail(status.error().kind, status.error().message);
  }
}

void NodeSession::take_events() {
  for (const NodeEvent& event : coordinator_->take()) {
    machine_->event(event, monotonic_ms());
    if (const auto* durable = std::get_if<CheckpointEvent>(&event)) {
      coordinator_->durable_before(durable->step);
    }
  }
  if (const int64_t term = coordinator_->term(); term != welcome_.term) {
    welcome_.term = term;
    options_.gauges->term = term;
    machine_->measure_again();
  }
  machine_->coordinator_away(coordinator_->away());
  machine_->snapshot_under_way(sending_snapshot_);
  options_.gauges->step = machine_->step();
  coordinator_->set_standing(machine_->standing());
}

Status NodeSession::perform(const NodeAction& action) {
  if (const auto* held = std::get_if<ReportHeld>(&action)) return report_held(*held);
  if (const auto* adopt = std::get_if<AdoptView>(&action)) return adopt_view(adopt->view);
  if (const auto* load = std::get_if<RestoreState>(&action)) return restore(load->state);
  if (const auto* state = std::get_if<AwaitState>(&action)) return await_state(state->step);
  if (std::holds_alternative<TakeSnapshot>(action)) return take_snapshot();
  if (const auto* step = std::get_if<ComputeStep>(&action)) return compute(*step);
  if (const auto* alone = std::get_if<TrainAlone>(&action)) return train_alone(*alone);
  if (const auto* step = std::get_if<AwaitStep>(&action)) return await_step(step->step);
  if (const auto* epoch = std::get_if<MeasureEpoch>(&action)) return measure_epoch(*epoch);
  if (const auto* apply = std::get_if<ApplyStep>(&action)) {
    if (apply->step % job_.steps_per_epoch() == 0) replica_->begin_epoch();
    LOCKSTEP_ASSIGN(
        const MetricSums metrics,
        replica_->update(exchange_->reduced(apply->step), {}, digests_, machine_->learning_rate()));
    exchange_->applied(apply->step);
    finish_step(apply->step, metrics);
    return {};
  }
  coordinator_->wait(kLookMs);
  return {};
}

void NodeSession::stop(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  if (batches_) {
    batches_->stop(reason);
  } else if (coordinator_) {
    coordinator_->ask_to_leave(reason, kLeavePatienceMs);
  } else {
    over_ = true;
    changed_.notify_all();
  }
}

void NodeSession::shut_down() {
  if (control_ && machine_) static_cast<void>(control_->leave(welcome_.session));
  if (links_) links_->shut_down();
  end_snapshot();
  std::unique_ptr<CoordinatorLink> coordinator;
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
    coordinator = std::move(coordinator_);
  }
  coordinator.reset();
  control_.reset();
}

void NodeSession::log(const std::string& line) const {
  if (options_.log) options_.log(line);
}

void NodeSession::log_memory_used() {
  end_snapshot();  // its copy is not part of the plan
  const double mib = 1 << 20;
  log(fmt::format("memory used: {:.1f} MiB beside the data; resident set {:.1f} MiB",
                  static_cast<double>(own_bytes() - own_before_) / mib,
                  static_cast<double>(resident_bytes()) / mib));
}

void NodeSession::log_memory() {
  const bool alone = machine_->view()->members.size() == 1;
  NodeMemory memory = replica_->memory(machine_->partitions(), alone);
  memory.exchange = alone ? 0
                          : Exchange::planned_bytes(exchange_options(), *machine_->view(),
                                                    welcome_.session, replica_->adder());
  if (memory.total() <= memory_told_) return;
  memory_told_ = memory.total();
  const double mib = 1 << 20;
  log(fmt::format(
      "memory plan: {:.1f} MiB (weights {:.1f}, optimizer {:.1f}, gradients {:.1f}, exchange "
      "{:.1f}, activations {:.1f})",
      memory.total() / mib, memory.weights / mib, memory.slots / mib, memory.gradients / mib,
      memory.exchange / mib, memory.activations / mib));
}

NodeRuntime::NodeRuntime(NodeOptions options, Network& network)
    : session_(std::make_unique<NodeSession>(std::move(options), network)) {}
NodeRuntime::~NodeRuntime() = default;
Status NodeRuntime::run() { return session_->run(); }
void NodeRuntime::stop(const std::string& reason) { session_->stop(reason); }

}  // namespace lockstep
