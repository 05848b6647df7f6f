#include "host/train/replay.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>

#include "host/checkpoint/record_log.h"
#include "host/cluster/records.h"
#include "host/core/digest.h"
#include "host/job/data_job.h"
#include "host/nn/model_config.h"
#include "host/runtime/node_runtime.h"
#include "host/runtime/replica.h"
#include "host/train/digest_file.h"
#include "host/train/kept_states.h"
#include "host/train/output_folder.h"

namespace lockstep {
namespace {

// A run's job and its devices on this machine, at one of its states.
class Replay {
 public:
  static Result<std::unique_ptr<Replay>> create(FileSystem& files, const std::string& run,
                                                const std::string& data,
                                                const NumericsFactory& factory);

  const Job& job() const { return job_; }
  const Graph& graph() const { return replica_->graph(); }
  int64_t from() const { return from_; }

  // Takes the newest state up to state[step], and computes from there to state[step].
  Status go_to(int64_t step);
  // Of the next step: one partition's, flat; empty where it has no rows.
  Result<std::vector<float>> gradient(int partition);
  // Computes the next step. Whether it ends as the run recorded it, if that is known.
  Result<bool> advance();

 private:
  Replay(FileSystem& files, std::string run, Job job)
      : files_(files), run_(std::move(run)), job_(std::move(job)) {}
  Status load(const std::string& data, const DeviceFactory& factory);
  Status read_epochs();
  Status set_start();
  std::vector<HostBatch> batches(const std::vector<PartitionRange>& ranges);

  FileSystem& files_;
  const std::string run_;
  const Job job_;
  JobData data_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<BatchLoader> loader_;
  std::unique_ptr<Replica> replica_;
  std::vector<uint64_t> recorded_;
  std::vector<EpochRecord> epochs_;  // as its log says how they ended
  int64_t from_ = 0;
};

Result<std::unique_ptr<Replay>> Replay::create(FileSystem& files, const std::string& run,
                                               const std::string& data,
                                               const NumericsFactory& factory) {
  LOCKSTEP_ASSIGN(Job job, read_job(run));
  if (!job.exact) {
    return Error{fmt::format(
        "the steps of '{}' cannot be computed again to the same bits: its job says exact off",
        run)};
  }
  std::unique_ptr<Replay> replay(new Replay(files, run, std::move(job)));
  LOCKSTEP_RETURN_IF_ERROR(replay->load(data, factory(replay->job_.numerics)));
  LOCKSTEP_RETURN_IF_ERROR(replay->read_epochs());
  LOCKSTEP_ASSIGN(replay->recorded_, read_digests(OutputFolder::digests_path(run)));
  return replay;
}

Status Replay::load(const std::string& data, const DeviceFactory& factory) {
  LOCKSTEP_ASSIGN(data_, load_job_data(job_, data.empty() ? job_.data : data, ""));
  if (data_.train.digest != job_.data_digest) {
    return Error{fmt::format(
        "the data of '{}' is not here: its digest is {}, that of '{}' is {}; --data says where",
        run_, job_.data_digest, data.empty() ? job_.data : data, data_.train.digest)};
  }
  LOCKSTEP_ASSIGN(model_, model_from_config(job_.model_config));
  LOCKSTEP_ASSIGN(replica_, Replica::create(job_, *model_, 1, factory));
  loader_ = std::make_unique<BatchLoader>(data_.train, training_loader(job_, data_.train_rows));
  return {};
}

Status Replay::read_epochs() {
  const std::string path = OutputFolder::state_path(run_) + "/log";
  if (!file_exists(path)) return {};  // kept elsewhere: no epoch's decision is known
  LOCKSTEP_ASSIGN(const LogContents log, read_log(files_, path));
  std::vector<JobRecord> records;
  for (const LogRecord& record : log.records) {
    LOCKSTEP_ASSIGN(records.emplace_back(), decode_record(record.body));
  }
  epochs_ = recover_job(records, job_.steps_per_epoch()).epochs;
  return {};
}

Status Replay::set_start() {
  LOCKSTEP_RETURN_IF_ERROR(replica_->set_initial_state());
  const std::span<const float> weights = replica_->state().weights;
  if (sha256_hex({reinterpret_cast<const char*>(weights.data()), weights.size_bytes()}) ==
      job_.initial_weights_sha256) {
    return {};
  }
  return Error{fmt::format(
      "'{}' began with the weights of a file, and its checkpoint of step 0 is gone", run_)};
}

Status Replay::go_to(int64_t step) {
  const auto states = kept_states(files_, run_);
  const auto after = states.upper_bound(step);
  if (after == states.begin()) {
    LOCKSTEP_RETURN_IF_ERROR(set_start());
  } else {
    LOCKSTEP_ASSIGN(const std::string bytes,
                    read_kept_state(files_, run_, std::prev(after)->second));
    LOCKSTEP_ASSIGN(const StateView state, decode_state(bytes));
    LOCKSTEP_RETURN_IF_ERROR(replica_->set_state(state));
  }
  from_ = replica_->state().step;
  while (replica_->state().step < step) {
    LOCKSTEP_ASSIGN(const bool as_recorded, advance());
    if (as_recorded) continue;
    return Error{
        fmt::format("'{}': this machine computes other bits than the run did, already at step {}",
                    run_, replica_->state().step - 1)};
  }
  return {};
}

std::vector<HostBatch> Replay::batches(const std::vector<PartitionRange>& ranges) {
  const Job::BatchPlace place = job_.place_of_step(replica_->state().step);
  return loader_->take({place.pass, place.batch, ranges});
}

Result<std::vector<float>> Replay::gradient(int partition) {
  const int64_t step = replica_->state().step;
  const std::vector<PartitionRange> range = {{partition, partition + 1}};
  LOCKSTEP_ASSIGN(const auto roots, replica_->take_roots(step, range, false));
  if (roots.empty()) return std::vector<float>();
  LOCKSTEP_RETURN_IF_ERROR(replica_->compute(step, range, batches(range), [](int64_t, int64_t) {}));
  return std::vector<float>(roots[0].values, roots[0].values + graph().flat_size);
}

Result<bool> Replay::advance() {
  const int64_t step = replica_->state().step;
  const int64_t epoch = step / job_.steps_per_epoch();
  if (step % job_.steps_per_epoch() == 0) replica_->begin_epoch();
  std::optional<double> rate;
  if (epoch > 0 && epoch <= std::ssize(epochs_)) {
    rate = epochs_[static_cast<size_t>(epoch - 1)].decision.learning_rate;
  }
  const std::vector<PartitionRange> all = {{0, job_.partitions}};
  LOCKSTEP_ASSIGN(const auto roots, replica_->take_roots(step, all, true));
  LOCKSTEP_RETURN_IF_ERROR(replica_->compute(step, all, batches(all), [](int64_t, int64_t) {}));
  LOCKSTEP_RETURN_IF_ERROR(replica_->update(nullptr, roots, true, rate));
  const uint64_t recorded = step < std::ssize(recorded_) ? recorded_[static_cast<size_t>(step)] : 0;
  return recorded == 0 || recorded == replica_->state().digest;
}

// The first layer whose gradients differ, and how.
void describe_layer(const Graph& graph, const std::vector<float>& left,
                    const std::vector<float>& right, GradientDifference* difference) {
  for (const Parameter& parameter : graph.parameters) {
    if (parameter.gradient_offset < 0) continue;
    if (!difference->layer.empty() && parameter.layer != difference->layer) continue;
    for (int64_t i = parameter.gradient_offset; i < parameter.gradient_offset + parameter.count();
         ++i) {
      const float a = left[static_cast<size_t>(i)];
      const float b = right[static_cast<size_t>(i)];
      if (std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b)) continue;
      difference->layer = parameter.layer;
      ++difference->values;
      difference->largest = std::max(difference->largest, std::abs(double{a} - double{b}));
    }
  }
}

bool same_bits(const std::vector<float>& left, const std::vector<float>& right) {
  return std::ranges::equal(left, right, {}, std::bit_cast<uint32_t, float>,
                            std::bit_cast<uint32_t, float>);
}

Result<std::optional<GradientDifference>> compare_gradients(Replay& left, Replay& right,
                                                            int64_t step) {
  std::optional<GradientDifference> difference;
  const Job& job = left.job();
  for (int partition = 0; partition < job.partitions; ++partition) {
    LOCKSTEP_ASSIGN(const auto ours, left.gradient(partition));
    LOCKSTEP_ASSIGN(const auto theirs, right.gradient(partition));
    if (same_bits(ours, theirs)) continue;
    if (!difference) {
      difference.emplace();
      const int64_t rows = job.rows_of_step(step);
      difference->first_row = partition_begin(rows, job.partitions, partition);
      difference->end_row = partition_begin(rows, job.partitions, partition + 1);
      describe_layer(left.graph(), ours, theirs, &*difference);
    }
    difference->partitions.push_back(partition);
  }
  return difference;
}

bool are_cut_alike(const Replay& left, const Replay& right, int64_t step) {
  return left.job().partitions == right.job().partitions &&
         left.job().rows_of_step(step) == right.job().rows_of_step(step) &&
         left.graph().flat_size == right.graph().flat_size;
}

}  // namespace

Result<Replayed> replay_step(FileSystem& files, const std::string& left, const std::string& right,
                             int64_t step, const std::string& data,
                             const NumericsFactory& factory) {
  LOCKSTEP_ASSIGN(const auto ours, Replay::create(files, left, data, factory));
  LOCKSTEP_ASSIGN(const auto theirs, Replay::create(files, right, data, factory));
  LOCKSTEP_RETURN_IF_ERROR(ours->go_to(step));
  LOCKSTEP_RETURN_IF_ERROR(theirs->go_to(step));
  Replayed replayed;
  replayed.left.from = ours->from();
  replayed.right.from = theirs->from();
  replayed.same_partitions = are_cut_alike(*ours, *theirs, step);
  if (replayed.same_partitions) {
    LOCKSTEP_ASSIGN(replayed.gradients, compare_gradients(*ours, *theirs, step));
  }
  LOCKSTEP_ASSIGN(replayed.left.as_recorded, ours->advance());
  LOCKSTEP_ASSIGN(replayed.right.as_recorded, theirs->advance());
  return replayed;
}

}  // namespace lockstep
