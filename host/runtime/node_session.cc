#include "host/runtime/node_session.h"

#include <fmt/format.h>

#include <unistd.h>

#include <chrono>
#include <fstream>

#include "host/core/digest.h"

namespace lockstep {
namespace {

constexpr int kConnectMs = 2000;
constexpr int kCoordinatorAwayMs = 5000;
constexpr int kNoProgressMs = 30'000;
constexpr int kPeersMs = 10'000;
constexpr int kVerdictMs = 8000;  // a lease, and a little
constexpr size_t kUploadBytes = 4 << 20;

int64_t now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// The resident set of this process.
int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t total_pages = 0;
  int64_t resident_pages = 0;
  file >> total_pages >> resident_pages;
  return resident_pages * ::sysconf(_SC_PAGESIZE);
}

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
  Status status = load();
  if (status.ok()) status = join();
  if (status.ok()) status = work();
  if (!status.ok() && control_ != nullptr && !machine_) {
    static_cast<void>(control_->report_fault({welcome_.session, 0, 0, status.error().message}));
  }
  shut_down();
  return status;
}

Status NodeSession::connect() {
  int64_t deadline = now_ms() + options_.connect_timeout_ms;
  int pause_ms = 20;
  while (true) {
    auto client = network_.connect_control(options_.coordinator, kConnectMs);
    if (client.ok()) {
      control_ = std::move(client).value();
      auto welcome = control_->hello({kWireVersion, LOCKSTEP_VERSION, options_.name});
      if (welcome.ok()) {
        welcome_ = *welcome;
        return {};
      }
      if (welcome.error().kind == ErrorKind::refused) return welcome.error();
      // It is there, and still prepares the job: that may take as long as its data is large.
      deadline = now_ms() + options_.connect_timeout_ms;
    }
    {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, std::chrono::milliseconds(pause_ms), [&] { return over_; });
      if (over_) return Error{"stopped"};
    }
    if (now_ms() > deadline) {
      return Error{
          fmt::format("no coordinator at {} after {} s of trying; start one with "
                      "'lockstep coordinator', or check --coordinator",
                      options_.coordinator.text(), options_.connect_timeout_ms / 1000)};
    }
    const bool early = now_ms() < deadline - options_.connect_timeout_ms / 2;
    pause_ms = std::min(pause_ms * 2, early ? 50 : 1000);
  }
}

Status NodeSession::load() {
  nlohmann::json json = nlohmann::json::parse(welcome_.job, nullptr, false);
  if (json.is_discarded()) return Error{"the coordinator sent a job that is not JSON"};
  LOCKSTEP_ASSIGN(job_, job_from_json(json));
  keep_ledger_ = json.value("ledger", false);
  const std::string data = options_.data.empty() ? job_.data : options_.data;
  const std::string validation =
      options_.validation_data.empty() ? job_.validation_data : options_.validation_data;
  if (data_.train.rows() == 0 || !validation.empty()) {
    LOCKSTEP_ASSIGN(data_, load_job_data(data, validation, job_.validation_split));
  } else {
    const ValidationCut cut = cut_validation(data_.train.rows(), job_.validation_split);
    data_.train_rows = cut.train;
    data_.validation_rows = cut.validation;
  }
  resident_before_ = resident_bytes();
  LOCKSTEP_ASSIGN(const auto model,
                  options_.build_model(job_.model, job_.input_shape, job_.classes));
  const int devices = options_.devices > 0 ? options_.devices : available_cpus();
  LOCKSTEP_ASSIGN(replica_, Replica::create(job_, *model, devices, [this](int index) {
                    return options_.make_device(job_.numerics, index);
                  }));
  return {};
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
  links_ = std::make_unique<PeerLinks>(network_, recipe_key(job_));
  links_->set_session(welcome_.session);
  LOCKSTEP_ASSIGN(data_port_, links_->listen(options_.listen));
  request.address =
      options_.advertise.empty() ? fmt::format(":{}", data_port_) : options_.advertise;
  LOCKSTEP_RETURN_IF_ERROR(control_->join(request));
  {
    const std::lock_guard lock(mutex_);
    machine_ = std::make_unique<NodeMachine>(welcome_.session, job_.steps_per_epoch(), job_.epochs);
  }
  loader_ = std::make_unique<BatchLoader>(
      data_.train,
      LoaderOptions{data_.train_rows, job_.batch_size, job_.partitions, job_.seed, job_.shuffle});
  if (job_.has_validation()) {
    validation_loader_ = std::make_unique<BatchLoader>(
        data_.validation(),
        LoaderOptions{data_.validation_rows, job_.batch_size, job_.partitions, job_.seed, false});
  }
  poller_ = std::thread([this] { poll_coordinator(); });
  reporter_ = std::thread([this] { send_reports(); });
  return {};
}

Status NodeSession::work() {
  while (true) {
    take_events();
    const NodeAction action = machine_->next();
    Status status;
    if (const auto* leaving = std::get_if<LeaveJob>(&action)) {
      if (leaving->completed) return {};
      return Error{leaving->reason, leaving->kind};
    }
    if (std::holds_alternative<AwaitEvent>(action)) await_event();
    if (const auto* peers = std::get_if<ConnectPeers>(&action)) status = connect_peers(peers->view);
    if (const auto* train = std::get_if<TrainStep>(&action)) status = train_step(train->step);
    if (const auto* epoch = std::get_if<MeasureEpoch>(&action))
      status = measure_epoch(epoch->epoch);
    if (std::holds_alternative<ReportFinal>(action)) status = report_final();
    if (std::holds_alternative<UploadWeights>(action)) status = upload_weights();
    if (status.ok() || machine_->stopping()) continue;
    static_cast<void>(
        control_->report_fault({welcome_.session, 0, machine_->step(), status.error().message}));
    machine_->fail(status.error().kind, status.error().message);
  }
}

void NodeSession::take_events() {
  const std::lock_guard lock(mutex_);
  while (!events_.empty()) {
    machine_->event(events_.front());
    events_.pop_front();
  }
}

void NodeSession::await_event() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !events_.empty(); });
}

Status NodeSession::connect_peers(const View& view) {
  const bool alone = view.members.size() == 1;
  ranges_ = replica_->device_ranges(machine_->partitions());
  LOCKSTEP_RETURN_IF_ERROR(replica_->allocate_gradients(machine_->partitions(), alone));
  if (!alone) {
    ExchangeOptions options;
    options.view = view;
    options.self = welcome_.session;
    options.partitions = job_.partitions;
    options.layout = replica_->layout();
    options.rows_of_step = [this](int64_t step) { return job_.rows_of_step(step); };
    options.send = [this](int member, const Frame& frame) { links_->send(member, frame); };
    options.roots_are_joined = replica_->devices() > 1;
    LOCKSTEP_ASSIGN(auto exchange, Exchange::create(std::move(options), replica_->adder()));
    {
      const std::lock_guard lock(mutex_);
      exchange_ = std::move(exchange);
    }
    LOCKSTEP_RETURN_IF_ERROR(links_->connect(view, exchange_.get(), kPeersMs));
  }
  loader_->prefetch(request_for(machine_->step()));
  log_memory();
  machine_->peers_connected();
  return {};
}

BatchRequest NodeSession::request_for(int64_t step) const {
  return {step / job_.steps_per_epoch(), step % job_.steps_per_epoch(), ranges_};
}

Status NodeSession::train_step(int64_t step) {
  if (step % job_.steps_per_epoch() == 0) replica_->begin_epoch();
  const auto batches = loader_->take(request_for(step));
  if (step + 1 < job_.total_steps()) loader_->prefetch(request_for(step + 1));
  const auto roots = replica_->roots(step, ranges_);
  if (exchange_ == nullptr) {
    LOCKSTEP_RETURN_IF_ERROR(replica_->compute(step, ranges_, batches, [](int64_t, int64_t) {}));
    finish_step(step, replica_->update(nullptr, roots), batches);
    return {};
  }
  exchange_->begin(step, roots, replica_->active_devices(step, ranges_));
  LOCKSTEP_RETURN_IF_ERROR(replica_->compute(
      step, ranges_, batches,
      [this, step](int64_t begin, int64_t end) { exchange_->local_ready(step, begin, end); }));
  const auto reduced = exchange_->wait(step, kNoProgressMs);
  if (!reduced.ok()) return explain_loss(reduced.error(), step);
  finish_step(step, replica_->update(*reduced, roots), batches);
  return {};
}

// A step could not be completed. The coordinator knows best who is to blame: wait for its word.
Status NodeSession::explain_loss(const Error& error, int64_t step) {
  const int lost = exchange_->lost_member();
  if (lost >= 0) {
    const SessionId accused = machine_->view()->members[lost].session;
    static_cast<void>(control_->report_fault({welcome_.session, accused, step, error.message}));
  }
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::milliseconds(kVerdictMs),
                    [this] { return !events_.empty(); });
  while (!events_.empty()) {
    machine_->event(events_.front());
    events_.pop_front();
  }
  if (machine_->stopping()) return {};
  return error;
}

void NodeSession::finish_step(int64_t step, const StepMetrics& metrics,
                              const std::vector<HostBatch>& batches) {
  StepReport report;
  report.session = welcome_.session;
  report.view = machine_->view()->number;
  report.step = step;
  report.loss_sum = metrics.loss_sum;
  report.correct = metrics.correct;
  const int64_t rows = job_.rows_of_step(step);
  for (size_t device = 0; device < ranges_.size(); ++device) {
    auto sample = batches[device].samples.begin();
    for (int p = ranges_[device].begin; p < ranges_[device].end; ++p) {
      const int64_t count =
          partition_begin(rows, job_.partitions, p + 1) - partition_begin(rows, job_.partitions, p);
      if (count == 0) continue;
      PartitionSamples entry{p, static_cast<int>(count), {}};
      if (keep_ledger_) entry.samples.assign(sample, sample + count);
      sample += count;
      report.partitions.push_back(std::move(entry));
    }
  }
  machine_->step_applied();
  const std::lock_guard lock(mutex_);
  reports_.push_back(std::move(report));
  changed_.notify_all();
}

Status NodeSession::measure_epoch(int64_t epoch) {
  EpochReport report;
  report.session = welcome_.session;
  report.epoch = epoch;
  report.loss_sum = replica_->state().loss_sum;
  report.correct = replica_->state().correct;
  report.rows = replica_->state().rows;
  const int64_t batches = validation_loader_ ? validation_loader_->batches_per_epoch() : 0;
  for (int64_t batch = 0; batch < batches; ++batch) {
    const BatchRequest request{0, batch, ranges_};
    const auto rows = validation_loader_->take(request);
    if (batch + 1 < batches) validation_loader_->prefetch({0, batch + 1, ranges_});
    LOCKSTEP_RETURN_IF_ERROR(replica_->measure(batch, validation_loader_->rows_of_batch(batch),
                                               ranges_, rows, &report.validation));
    take_events();
    if (machine_->stopping()) return {};
  }
  {
    // The coordinator counts the epoch's steps before its end.
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return (reports_.empty() && !sending_) || over_; });
  }
  LOCKSTEP_RETURN_IF_ERROR(control_->report_epoch(report));
  machine_->epoch_measured();
  return {};
}

Status NodeSession::report_final() {
  const double mib = 1 << 20;
  log(fmt::format("memory used: {:.1f} MiB beside the data; resident set {:.1f} MiB",
                  static_cast<double>(resident_bytes() - resident_before_) / mib,
                  static_cast<double>(resident_bytes()) / mib));
  const auto& weights = replica_->state().weights;
  const std::string_view bytes(reinterpret_cast<const char*>(weights.data()), weights.size() * 4);
  LOCKSTEP_RETURN_IF_ERROR(control_->report_final({welcome_.session, sha256_hex(bytes)}));
  machine_->final_reported();
  return {};
}

Status NodeSession::upload_weights() {
  const auto& weights = replica_->state().weights;
  const char* bytes = reinterpret_cast<const char*>(weights.data());
  const size_t total = weights.size() * sizeof(float);
  for (size_t offset = 0; offset < total; offset += kUploadBytes) {
    const std::string part(bytes + offset, std::min(kUploadBytes, total - offset));
    LOCKSTEP_RETURN_IF_ERROR(
        control_->upload(welcome_.session, static_cast<int64_t>(offset), part));
  }
  machine_->uploaded();
  return {};
}

void NodeSession::poll_coordinator() {
  std::unique_ptr<ControlClient> client;
  int64_t last_answer_ms = now_ms();
  while (true) {
    if (client == nullptr) {
      auto connected = network_.connect_control(options_.coordinator, kConnectMs);
      if (connected.ok()) client = std::move(connected).value();
    }
    auto events = client ? client->poll(welcome_.session)
                         : Result<std::vector<NodeEvent>>(Error{"not connected"});
    std::unique_lock lock(mutex_);
    if (over_) return;
    if (events.ok()) {
      last_answer_ms = now_ms();
      events_.insert(events_.end(), events->begin(), events->end());
      if (!events->empty()) changed_.notify_all();
      for (const NodeEvent& event : *events) {
        if (std::holds_alternative<StopEvent>(event) && exchange_) exchange_->interrupt();
      }
      continue;
    }
    const bool refused = events.error().kind == ErrorKind::refused;
    if (refused || now_ms() - last_answer_ms > kCoordinatorAwayMs) {
      events_.push_back(
          StopEvent{events.error().kind, false,
                    refused ? events.error().message
                            : fmt::format("the coordinator at {} has not answered for {} s",
                                          options_.coordinator.text(), kCoordinatorAwayMs / 1000)});
      changed_.notify_all();
      if (exchange_) exchange_->interrupt();
      return;
    }
    client.reset();
    changed_.wait_for(lock, std::chrono::milliseconds(100), [this] { return over_; });
  }
}

void NodeSession::send_reports() {
  std::unique_ptr<ControlClient> client;
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return over_ || !reports_.empty(); });
    if (over_) return;
    const StepReport report = std::move(reports_.front());
    reports_.pop_front();
    sending_ = true;
    lock.unlock();
    // A report that cannot be sent is the polling thread's concern: it sees the same broken link.
    if (client == nullptr) {
      auto connected = network_.connect_control(options_.coordinator, kConnectMs);
      if (connected.ok()) client = std::move(connected).value();
    }
    if (client != nullptr && !client->report_step(report).ok()) client.reset();
    lock.lock();
    sending_ = false;
    changed_.notify_all();
  }
}

void NodeSession::stop(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  events_.push_back(StopEvent{ErrorKind::failed, false, reason});
  over_ = over_ || machine_ == nullptr;
  if (exchange_) exchange_->interrupt();
  changed_.notify_all();
}

void NodeSession::shut_down() {
  // Before the polling connection closes: a connection that breaks is a death.
  if (control_ && machine_) static_cast<void>(control_->leave(welcome_.session));
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
    changed_.notify_all();
  }
  if (links_) links_->shut_down();
  if (poller_.joinable()) poller_.join();
  if (reporter_.joinable()) reporter_.join();
  control_.reset();
}

void NodeSession::log(const std::string& line) const {
  if (options_.log) options_.log(line);
}

void NodeSession::log_memory() {
  const bool alone = exchange_ == nullptr;
  NodeMemory memory = replica_->memory(machine_->partitions(), alone);
  memory.exchange = alone ? 0 : exchange_->planned_bytes();
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
