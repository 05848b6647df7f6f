// A node's copy of the state, and the devices that compute on it.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "host/cluster/messages.h"
#include "host/core/result.h"
#include "host/data/batch_loader.h"
#include "host/device/flat_math.h"
#include "host/graph/program.h"
#include "host/job/job.h"
#include "host/job/metric_table.h"
#include "host/nn/model.h"
#include "host/optim/optimizer.h"
#include "host/runtime/device_team.h"
#include "host/runtime/exchange.h"
#include "host/runtime/node_memory.h"
#include "host/runtime/penalties.h"
#include "host/runtime/state_file.h"
#include "host/runtime/weight_constraints.h"

namespace lockstep {

// state[t]: all that a later step depends on.
struct TrainState {
  int64_t step = 0;
  std::span<float> weights;             // flat; the Replica's memory, on the host
  std::vector<std::span<float>> slots;  // the optimizer's, flat each
  uint64_t digest = 0;                  // of weights and slots; 0 where the last update made none
  MetricSums sums;                      // this epoch's metric accumulators
};

// One owner; every call comes from the thread that made it.
//
// Devices with memory of their own hold the state each; the vectors of state() are then a copy,
// which fetch_state() brings up to date.
class Replica {
 public:
  static Result<std::unique_ptr<Replica>> create(const Job& job, const Model& model, int devices,
                                                 const DeviceFactory& factory);

  const Graph& graph() const { return training_; }
  SliceLayout layout() const { return SliceLayout(training_.flat_size); }
  const TrainState& state() const { return state_; }
  Status set_weights(const std::vector<float>& weights);  // to evaluate
  // The state at the job's start.
  Status set_initial_state();
  // Of a checkpoint. An error where it does not fit this job.
  Status set_state(const StateView& state);
  // Brings the vectors of state() up to date. They stay so until the next update.
  Status fetch_state();
  // The state as bytes: a copy.
  Result<std::string> encode_state();
  // For a state that comes in pieces, straight into the spans of state(): ends it.
  Status set_accumulators(int64_t step, const MetricSums& sums);
  int devices() const { return team_->size(); }
  std::vector<Device*> device_list();
  // Of the first device, and where there are several apart, how they exchange gradients.
  std::string device_description() const;
  Device& adder() { return team_->device(0); }

  // The partitions of each device when the node holds `range`.
  std::vector<PartitionRange> device_ranges(PartitionRange range) const;

  // Runs the job's own Program for one partition of the first batch and hashes each op.
  Result<std::vector<OpDigest>> canary(const Dataset& dataset, RowRange rows);

  NodeMemory memory(PartitionRange range, bool alone) const;

  // Memory for the gradients of partitions of a step; the devices without rows have none. It is
  // not used again before step + 2, or before the next step where the node is `alone`.
  Result<std::vector<LocalRoot>> take_roots(int64_t step, const std::vector<PartitionRange>& ranges,
                                            bool alone);
  int active_devices(int64_t step, const std::vector<PartitionRange>& ranges) const;
  // Forward and backward passes into the roots that were last taken. `ready(begin, end)` comes from
  // the devices' threads.
  Status compute(int64_t step, const std::vector<PartitionRange>& ranges,
                 const std::vector<HostBatch>& batches, const Program::ReadyCallback& ready);
  // state[t] -> state[t+1] by the reduced gradient; nullptr: by the tree over the local roots.
  // Leaves the new state's digest in state(), but for `digests` false. `learning_rate`: instead of
  // the optimizer's own. The step's metrics.
  Result<MetricSums> update(const float* reduced, const std::vector<LocalRoot>& local,
                            bool digests = true, std::optional<double> learning_rate = {});
  // The digest of the state as it lies in memory (host/device/state_digest.h).
  Result<uint64_t> state_digest();
  void begin_epoch();
  // Whether the state, by its loss, is its epoch's last (ends_at_loss in job/fit_job.h).
  bool ends_epoch() const;

  // The metrics of this node's partitions of one validation batch.
  Status measure(int64_t batch, int64_t rows, const std::vector<PartitionRange>& ranges,
                 const std::vector<HostBatch>& batches, std::vector<ValidationPart>* parts);

 private:
  // Parameters [offset, offset + count) that are updated in one way; their gradients lie end to
  // end.
  struct Segment {
    ParameterRole role = ParameterRole::trained;
    float momentum = 0;
    int64_t offset = 0, gradient_offset = 0, count = 0;
    bool decays = true;
    bool whole = false;  // one parameter, by the optimizer's whole rule
    Shape shape;         // of that
    int64_t end() const { return offset + count; }
  };
  // Memory for one root. Both are the same where the device shares the host's memory.
  struct RootMemory {
    float* device = nullptr;
    float* host = nullptr;  // nullptr until it is needed
  };
  struct RoundRoot {
    Subtree subtree;
    RootMemory memory;
  };

  Replica(const Job& job, Graph training, Graph evaluation, Optimizer optimizer,
          std::unique_ptr<DeviceTeam> team);
  bool shares_memory() { return team_->device(0).shares_host_memory(); }
  Status allocate_state();
  Status send_state();
  Status share(int64_t count, const std::function<Status(int index, int64_t i)>& task);
  Result<uint64_t> sum_over_blocks(
      const std::function<Result<uint64_t>(Device&, int64_t block)>& task);
  Result<uint64_t> update_shared(const float* reduced, const std::vector<TreePiece>& pieces,
                                 bool digests);
  // Where not all parameters are updated in one way: by the whole flat gradient.
  Result<uint64_t> update_segments(float* gradient, bool digests);
  Status update_devices(const float* reduced, const std::vector<TreePiece>& pieces, bool digests,
                        float* metrics);
  Status update_device(int index, const float* reduced, const std::vector<TreePiece>& pieces,
                       std::vector<DigestLanes>* lanes, float* metrics);
  // The reduced gradient, with what adds to it, in the device's memory.
  Result<float*> gradient_on(int index, const float* reduced, const std::vector<TreePiece>& pieces);
  // What regularizers add to the loss, by the weights as they are.
  Result<double> penalty();
  Status add_penalty_gradients(float* gradient);  // in the host's memory
  Status constrain_weights();                     // the same
  const float* weights_of(int device) const;
  Result<uint64_t> digest_of_block(Device& device, int64_t block) const;
  void make_segments();
  bool may_join(const Segment& last, const Segment& next) const;
  // Sets terms_, but for what comes from norms.
  void plan_step(std::optional<double> learning_rate);
  UpdateDesc update_of(const Segment& segment, const StepTerms& terms) const;
  int64_t optimizer_step() const { return job_.optimizer_iterations + state_.step + 1; }
  // The state as a device sees it, and a flat gradient.
  struct StateMemory {
    float* gradient = nullptr;
    float* weights = nullptr;
    std::vector<float*> slots;
    StateMemory of(const Segment& segment, int64_t first = 0) const;  // from element `first` on
    std::vector<const float*> operands() const;                       // of an ExpressionUpdate
  };
  StateMemory memory_of(int device, float* gradient);
  // Of the team where the devices share the host's memory, else of one device.
  FlatMath& math_of(int device);
  void make_math();
  // Where the optimizer has a rule for whole parameters: its steps.
  Status take_whole_steps(int device, const StateMemory& memory,
                          const std::vector<StepTerms>& terms);
  // Of the segments, with the norms that the optimizer reads.
  Result<std::vector<UpdateDesc>> plan_updates(int device, const StateMemory& memory);
  Status measure_norms(int device, const StateMemory& memory, std::vector<StepTerms>* terms);
  PartitionGroup group_of(int64_t rows, PartitionRange range) const;
  // `error` of a device's step with its rows in `batch`. Where it was memory that was missing: what
  // the plan is, and the largest batch that fits.
  Error explain_room(const Error& error, int device, PartitionRange range,
                     const HostBatch& batch) const;
  // Device team_->size() stands for the node: memory of the host alone.
  Result<RootMemory> take_root(int device, bool on_host);
  Result<RoundRoot> take_round_root(int64_t step, int device, const Subtree& subtree, bool on_host);
  // In replica_compute.cc. The Program for a device's rows, and all the memory that its step needs.
  Result<Program*> prepare_compute(int64_t step, int index, PartitionRange range,
                                   const HostBatch& batch);
  // `program` nullptr: the device has no rows. `given`: what failed of gradients on their way.
  Status compute_on(int index, Program* program, RunContext context,
                    const Program::ReadyCallback& ready, Status* given);
  // Devices with memory of their own: gradients leave bucket by bucket, while others are computed.
  Status compute_apart(int index, Program* program, const RunContext& context,
                       const Program::ReadyCallback& ready, Status* given);
  Status give_bucket(int index, const FlatRange& bucket);
  Status await_bucket(int index, int number);
  // In replica_links.cc: devices that are linked add their gradients up among themselves, each a
  // share of every bucket.
  bool linked() const { return team_->link(0) != nullptr; }
  // Whether this round's gradients are the links' sums, in no order of ours.
  bool links_add() const { return linked() && !job_.exact && !round_on_host_; }
  int64_t share_size(const FlatRange& bucket) const;
  FlatRange share_of(const FlatRange& bucket, int index) const;
  int sharers() const { return linked() ? team_->size() : 1; }
  Status prepare_links(int index);
  Status gather_pieces(int index, const FlatRange& bucket, std::vector<TreePiece>* pieces);
  Status reduce_by_link(int index, const FlatRange& bucket);
  Status reduce_share(int index, const FlatRange& bucket);
  Status spread_gradient(int index, const float* reduced);
  void release_roots(int parity);

  const Job job_;
  const MetricTable metrics_;
  const Graph training_;
  const Graph evaluation_;
  const Optimizer optimizer_;
  std::unique_ptr<DeviceTeam> team_;
  std::vector<std::unique_ptr<Buffer>> state_buffers_;
  TrainState state_;
  const Penalties penalties_;
  const WeightConstraints constraints_;
  std::vector<std::unique_ptr<Buffer>> scratch_;  // of these, one a device
  std::vector<Segment> segments_;                 // by offset; frozen parameters are in none
  std::vector<StepTerms> terms_;                  // of the segments, in the step under way
  std::optional<FlatMath> team_math_;             // where the devices share the host's memory
  std::vector<FlatMath> device_math_;
  std::vector<float> whole_gradient_;  // flat, where it is not updated block by block
  // [device][vector]: weights, then slots; empty where the devices share the host's memory.
  std::vector<std::vector<std::unique_ptr<Buffer>>> device_states_;
  std::vector<std::unique_ptr<Buffer>> device_gradients_;  // flat, one a device
  std::vector<std::unique_ptr<Buffer>> device_metrics_;    // of an evaluation, one a device
  bool devices_ahead_ = false;                             // the vectors of state() are old
  std::vector<std::unique_ptr<ProgramSet>> programs_;      // one a device, of both graphs
  std::vector<FlatRange> buckets_;  // as gradients leave devices with memory of their own
  std::vector<std::unique_ptr<Buffer>> link_memory_;  // what the other devices send, one a device
  // Memory for roots, by device and then the node's: free, and in use by the steps of each parity.
  std::vector<std::vector<RootMemory>> free_roots_;
  std::vector<std::pair<int, RootMemory>> used_roots_[2];
  int64_t roots_step_[2] = {-1, -1};
  std::vector<std::vector<RoundRoot>> round_roots_;  // [device][root]; the node's last if linked
  bool round_on_host_ = false;                       // its roots are wanted in the host's memory
  std::vector<std::unique_ptr<Buffer>> root_buffers_;
};

}  // namespace lockstep
