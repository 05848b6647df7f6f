// What a node does when its machine asks: views, states, steps, epochs. The main thread's.
#include <fmt/format.h>

#include "host/core/digest.h"
#include "host/runtime/clock.h"
#include "host/runtime/node_session.h"

namespace lockstep {
namespace {

constexpr int kAskAgainMs = 1000;  // without progress: what was asked for may have been lost
constexpr int kRetryMs = 100;
constexpr int kMaxRetryMs = 1000;
constexpr size_t kUploadBytes = 4 << 20;

}  // namespace

bool NodeSession::sent(const Status& status, Status* error) {
  if (status.ok()) return true;
  if (status.error().kind == ErrorKind::refused) *error = status;
  if (error->ok()) coordinator_->wait(kRetryMs);
  return false;
}

Status NodeSession::report_held(const ReportHeld& hold) {
  Status error;
  if (sent(control_->report_held({welcome_.session, hold.number, hold.standing}), &error)) {
    machine_->held_reported(hold.number);
  }
  return error;
}

ExchangeOptions NodeSession::exchange_options() {
  ExchangeOptions options;
  options.partitions = job_.partitions;
  options.layout = replica_->layout();
  options.rows_of_step = [this](int64_t step) { return job_.rows_of_step(step); };
  options.send = [this](SessionId to, Frame frame) { links_->send(to, std::move(frame)); };
  options.state_sink = transfer_.get();
  return options;
}

Status NodeSession::make_exchange(const View& view) {
  if (exchange_ || (view.members.size() == 1 && !view.carries)) return {};
  LOCKSTEP_ASSIGN(exchange_, Exchange::create(exchange_options(), replica_->adder()));
  exchange_to_wake_ = exchange_.get();
  return {};
}

Status NodeSession::adopt_view(const View& view) {
  LOCKSTEP_RETURN_IF_ERROR(make_exchange(view));
  const Member& self = view.members[static_cast<size_t>(view.index_of(welcome_.session))];
  // Streams to those who are gone are closed first: what they were sending will not come.
  links_->close_others(view);
  machine_->view_adopted();
  options_.gauges->view = view.number;
  LOCKSTEP_RETURN_IF_ERROR(transfer_->adopt(view, welcome_.session));
  if (exchange_) {
    exchange_->adopt(view, welcome_.session, self.step < 0 ? view.first_step : self.step);
    links_->connect(view, exchange_.get());
  }
  progress_ms_ = monotonic_ms();
  if (view.restores) {
    samples_.clear();
    epoch_report_.reset();
  }
  log_memory();
  return {};
}

Status NodeSession::restore(const StateRef& state) {
  if (state.object.empty()) {
    LOCKSTEP_RETURN_IF_ERROR(replica_->set_initial_state());
    machine_->state_here(0, false);
  } else {
    LOCKSTEP_RETURN_IF_ERROR(fetch_state(state));
    machine_->state_here(state.step, replica_->ends_epoch());
  }
  prefetch(machine_->step());
  return {};
}

Status NodeSession::fetch_state(const StateRef& state) {
  std::string bytes;
  bytes.reserve(static_cast<size_t>(state.bytes));
  while (static_cast<int64_t>(bytes.size()) < state.bytes) {
    const auto part =
        control_->fetch(welcome_.session, state.object, static_cast<int64_t>(bytes.size()));
    if (part.ok() && !part->empty()) {
      bytes += *part;
      continue;
    }
    if (part.ok()) return Error{fmt::format("state {} ends too early", state.object)};
    Status error;
    static_cast<void>(sent(part.error(), &error));
    LOCKSTEP_RETURN_IF_ERROR(error);
    take_events();
    if (machine_->stopping()) return part.error();
  }
  if (sha256_hex(bytes) != state.object) {
    return Error{fmt::format("the state of step {} arrived damaged", state.step)};
  }
  LOCKSTEP_ASSIGN(const StateView view, decode_state(bytes));
  LOCKSTEP_RETURN_IF_ERROR(replica_->set_state(view));
  if (view.header.step == state.step && replica_->state().digest == state.digest) return {};
  return Error{
      fmt::format("the state of step {} has another digest than its checkpoint says", state.step)};
}

int64_t NodeSession::patience_ms() const {
  const TrainState& state = replica_->state();
  const auto values = std::ssize(state.weights) * (1 + std::ssize(state.slots));
  return lockstep::patience_ms(*machine_->view(), std::max<int64_t>(machine_->step(), 0),
                               compute_ms_, values * static_cast<int64_t>(sizeof(float)));
}

Status NodeSession::await_state(int64_t step) {
  exchange_->wait_for_news(kAskAgainMs);
  LOCKSTEP_ASSIGN(const bool whole, transfer_->take());
  if (whole) {
    machine_->state_here(step, replica_->ends_epoch());
    prefetch(step);
    return {};
  }
  if (const size_t missing = transfer_->missing(); missing != state_missing_) {
    state_missing_ = missing;
    progress_ms_ = monotonic_ms();
  } else if (monotonic_ms() - progress_ms_ >= kAskAgainMs) {
    transfer_->ask_again();
  }
  if (monotonic_ms() - progress_ms_ < patience_ms()) return {};
  progress_ms_ = monotonic_ms();
  const View& view = *machine_->view();
  coordinator_->report_fault({welcome_.session,
                              view.members[static_cast<size_t>(view.donor)].session, step,
                              fmt::format("the state of step {} has not come", step)});
  return {};
}

// The copy is all that the step's path pays for.
Status NodeSession::take_snapshot() {
  if (snapshot_sender_.joinable()) snapshot_sender_.join();
  LOCKSTEP_ASSIGN(auto state, replica_->encode_state());
  sending_snapshot_ = true;
  snapshot_sender_ = std::thread([this, bytes = std::move(state), step = replica_->state().step] {
    send_snapshot(bytes, step);
    sending_snapshot_ = false;
  });
  machine_->snapshot_taken();
  return {};
}

// The coordinator counts on the copy: it is sent again until it is there, or nobody wants it.
void NodeSession::send_snapshot(const std::string& bytes, int64_t step) {
  bool told = false;
  for (int pause_ms = kRetryMs; !snapshot_unwanted_;
       pause_ms = std::min(2 * pause_ms, kMaxRetryMs)) {
    const Status sent = upload_state(bytes, step);
    if (sent.ok() || sent.error().kind == ErrorKind::refused) return;
    if (!told) {
      log(fmt::format("the copy of step {} could not be sent: {}", step, sent.error().message));
    }
    told = true;
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::milliseconds(pause_ms),
                      [this] { return snapshot_unwanted_.load(); });
  }
}

Status NodeSession::upload_state(const std::string& bytes, int64_t step) {
  LOCKSTEP_ASSIGN(const auto client, network_.connect_control(options_.coordinator, kAskAgainMs));
  const auto total = static_cast<int64_t>(bytes.size());
  for (size_t offset = 0; offset < bytes.size(); offset += kUploadBytes) {
    LOCKSTEP_RETURN_IF_ERROR(client->upload({welcome_.session, step, static_cast<int64_t>(offset),
                                             total, bytes.substr(offset, kUploadBytes)}));
  }
  return {};
}

void NodeSession::end_snapshot() {
  {
    const std::lock_guard lock(mutex_);
    snapshot_unwanted_ = true;
    changed_.notify_all();
  }
  if (snapshot_sender_.joinable()) snapshot_sender_.join();
}

void NodeSession::prefetch(int64_t step) {
  const Job::BatchPlace place = job_.place_of_step(step);
  loader_->prefetch({place.pass, place.batch, replica_->device_ranges(machine_->partitions())});
}

std::vector<HostBatch> NodeSession::load_batches(int64_t step,
                                                 const std::vector<PartitionRange>& ranges) {
  const Job::BatchPlace place = job_.place_of_step(step);
  auto batches = loader_->take({place.pass, place.batch, ranges});
  prefetch(step + 1);
  return batches;
}

Status NodeSession::compute(const ComputeStep& action) {
  const int64_t begin_ms = monotonic_ms();
  if (action.partitions.empty()) exchange_->begin(action.step, {}, 0);
  for (const PartitionRange range : action.partitions) {
    LOCKSTEP_RETURN_IF_ERROR(compute_range(action.step, range));
  }
  machine_->computed(action.partitions);
  progress_ms_ = monotonic_ms();
  compute_ms_ = progress_ms_ - begin_ms;
  return {};
}

Status NodeSession::compute_range(int64_t step, PartitionRange range) {
  const auto ranges = replica_->device_ranges(range);
  const auto batches = load_batches(step, ranges);
  LOCKSTEP_ASSIGN(const auto roots, replica_->take_roots(step, ranges, false));
  exchange_->begin(step, roots, replica_->active_devices(step, ranges));
  LOCKSTEP_RETURN_IF_ERROR(replica_->compute(
      step, ranges, batches,
      [this, step](int64_t begin, int64_t end) { exchange_->local_ready(step, begin, end); }));
  count_samples(step, ranges, batches);
  return {};
}

Status NodeSession::train_alone(const TrainAlone& action) {
  const int64_t step = action.step;
  if (step % job_.steps_per_epoch() == 0) replica_->begin_epoch();
  const auto ranges = replica_->device_ranges(machine_->partitions());
  const auto batches = load_batches(step, ranges);
  LOCKSTEP_ASSIGN(const auto roots, replica_->take_roots(step, ranges, true));
  LOCKSTEP_RETURN_IF_ERROR(replica_->compute(step, ranges, batches, [](int64_t, int64_t) {}));
  count_samples(step, ranges, batches);
  LOCKSTEP_ASSIGN(const MetricSums metrics,
                  replica_->update(nullptr, roots, digests_, machine_->learning_rate()));
  finish_step(step, metrics);
  return {};
}

Status NodeSession::await_step(int64_t step) {
  switch (exchange_->wait(step, kAskAgainMs)) {
    case Exchange::Waited::complete:
      machine_->step_complete();
      return {};
    case Exchange::Waited::interrupted:
      return {};
    case Exchange::Waited::progress:
      progress_ms_ = monotonic_ms();
      return {};
    case Exchange::Waited::no_progress:
      break;
  }
  exchange_->ask_again();
  if (monotonic_ms() - progress_ms_ < patience_ms()) return {};
  progress_ms_ = monotonic_ms();
  for (const SessionId accused : exchange_->waiting_for(step)) {
    if (accused == welcome_.session) continue;
    coordinator_->report_fault(
        {welcome_.session, accused, step, fmt::format("its part of step {} has not come", step)});
  }
  return {};
}

void NodeSession::count_samples(int64_t step, const std::vector<PartitionRange>& ranges,
                                const std::vector<HostBatch>& batches) {
  const int64_t rows = job_.rows_of_step(step);
  for (size_t device = 0; device < ranges.size(); ++device) {
    auto sample = batches[device].samples.begin();
    for (int p = ranges[device].begin; p < ranges[device].end; ++p) {
      const int64_t count =
          partition_begin(rows, job_.partitions, p + 1) - partition_begin(rows, job_.partitions, p);
      if (count == 0) continue;
      PartitionSamples entry{p, static_cast<int>(count), {}};
      if (keep_ledger_) entry.samples.assign(sample, sample + count);
      sample += count;
      samples_.push_back(std::move(entry));
    }
  }
}

void NodeSession::finish_step(int64_t step, const MetricSums& metrics) {
  StepReport report;
  report.session = welcome_.session;
  report.era = machine_->view()->era;
  report.step = step;
  report.sums = metrics;
  report.digest = replica_->state().digest;
  report.partitions = std::exchange(samples_, {});
  machine_->applied(replica_->ends_epoch());
  coordinator_->report(std::move(report));
}

Status NodeSession::measure_epoch(const MeasureEpoch& action) {
  // The coordinator counts the epoch's steps before its end.
  if (!coordinator_->all_reported()) {
    coordinator_->wait_until_reported(kRetryMs);
    return {};
  }
  if (!epoch_report_ || epoch_report_->epoch != action.epoch ||
      measured_ranges_ != action.partitions) {
    EpochReport report;
    report.session = welcome_.session;
    report.era = machine_->view()->era;
    report.epoch = action.epoch;
    report.step = replica_->state().step;
    report.sums = replica_->state().sums;
    for (const PartitionRange range : action.partitions) {
      if (!job_.validates(action.epoch)) break;
      LOCKSTEP_RETURN_IF_ERROR(measure_range(range, &report));
    }
    if (machine_->stopping()) return {};
    epoch_report_ = std::move(report);
    measured_ranges_ = action.partitions;
  }
  Status error;
  if (sent(control_->report_epoch(*epoch_report_), &error)) {
    epoch_report_.reset();
    machine_->epoch_measured(action.epoch, action.partitions);
  }
  return error;
}

Status NodeSession::measure_range(PartitionRange range, EpochReport* report) {
  const int64_t batches = validation_loader_ ? validation_loader_->batches_per_epoch() : 0;
  const auto ranges = replica_->device_ranges(range);
  for (int64_t batch = 0; batch < batches && !machine_->stopping(); ++batch) {
    const auto rows = validation_loader_->take({0, batch, ranges});
    if (batch + 1 < batches) validation_loader_->prefetch({0, batch + 1, ranges});
    LOCKSTEP_RETURN_IF_ERROR(replica_->measure(batch, validation_loader_->rows_of_batch(batch),
                                               ranges, rows, &report->validation));
    take_events();
  }
  return {};
}

}  // namespace lockstep
