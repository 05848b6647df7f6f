#include "host/runtime/batch_worker.h"

#include <fmt/format.h>

#include <algorithm>

#include "host/core/metric_sums.h"
#include "host/data/batch_loader.h"
#include "host/graph/program.h"
#include "host/job/data_job.h"
#include "host/runtime/replica.h"

namespace lockstep {
namespace {

Status check_weight_count(const std::vector<float>& weights, const Graph& graph) {
  if (std::ssize(weights) == graph.parameter_count) return {};
  return Error{fmt::format("the model has {} weights, and {} were given", graph.parameter_count,
                           weights.size())};
}

// Loss and metrics: the sums of each batch, its partitions added in the order of the tree.
class MeasuringWorker final : public BatchWorker {
 public:
  MeasuringWorker(const BatchTask& task, const Dataset& dataset, std::unique_ptr<Replica> replica)
      : job_(*task.measured),
        replica_(std::move(replica)),
        arrays_(result_arrays(task, {}, dataset.rows())),
        loader_(dataset, loader_options(dataset)) {}

  Status compute(const BatchRange& batches, const Take& take) override {
    const auto ranges = replica_->device_ranges({0, job_.partitions});
    for (int64_t batch = batches.begin; batch < batches.end; ++batch) {
      const auto rows = loader_.take({0, batch, ranges});
      if (batch + 1 < batches.end) loader_.prefetch({0, batch + 1, ranges});
      std::vector<ValidationPart> parts;
      LOCKSTEP_RETURN_IF_ERROR(
          replica_->measure(batch, loader_.rows_of_batch(batch), ranges, rows, &parts));
      MetricSums sums(static_cast<size_t>(arrays_[0].bytes_of_batch) / sizeof(double));
      add_batch(parts, job_.partitions, &sums);
      LOCKSTEP_RETURN_IF_ERROR(
          take(0, {reinterpret_cast<const char*>(sums.data()), sums.size() * sizeof(double)}));
    }
    return {};
  }
  const std::vector<ResultArray>& arrays() const override { return arrays_; }
  std::string device_description() override { return replica_->device_description(); }

 private:
  LoaderOptions loader_options(const Dataset& dataset) const {
    LoaderOptions options = measuring_loader(job_, {0, dataset.rows()});
    options.devices = replica_->device_list();
    return options;
  }

  const Job job_;
  const std::unique_ptr<Replica> replica_;
  const std::vector<ResultArray> arrays_;
  BatchLoader loader_;
};

// What the model puts out. The devices share a batch, row by row; where the bits of a row change
// with the rows beside it, each computes whole batches instead.
class PredictingWorker final : public BatchWorker {
 public:
  PredictingWorker(const BatchTask& task, Graph graph, const Dataset& dataset,
                   std::unique_ptr<DeviceTeam> team)
      : graph_(std::move(graph)),
        team_(std::move(team)),
        shares_(team_->device(0).separates_partitions() ? 1 : team_->size()),
        arrays_(result_arrays(task, graph_.output_shapes, dataset.rows())),
        loader_(dataset, {.rows = {0, dataset.rows()},
                          .batch_size = task.batch_size,
                          .partitions = shares_,
                          .shuffle = false}) {}

  Status upload(const std::vector<float>& weights) {
    for (int i = 0; i < team_->size(); ++i) {
      Device& device = team_->device(i);
      const auto count = static_cast<int64_t>(weights.size());
      LOCKSTEP_ASSIGN(auto buffer, device.allocate(std::max<int64_t>(count, 1) * 4));
      if (device.shares_host_memory()) {
        std::copy(weights.begin(), weights.end(), buffer->data());
      } else {
        LOCKSTEP_RETURN_IF_ERROR(device.copy_to_device(weights.data(), count, buffer->data()));
      }
      weights_.push_back(std::move(buffer));
      programs_.push_back(std::make_unique<ProgramSet>(device, graph_));
    }
    return {};
  }

  Status compute(const BatchRange& batches, const Take& take) override {
    const int64_t at_once = team_->size() / shares_;
    for (int64_t batch = batches.begin; batch < batches.end; batch += at_once) {
      const BatchRange round{batch, std::min(batch + at_once, batches.end)};
      LOCKSTEP_RETURN_IF_ERROR(compute_round(round, batches.end));
      for (size_t i = 0; i < arrays_.size(); ++i) {
        LOCKSTEP_RETURN_IF_ERROR(take(
            static_cast<int>(i),
            {reinterpret_cast<const char*>(values_[i].data()), values_[i].size() * sizeof(float)}));
      }
    }
    return {};
  }
  const std::vector<ResultArray>& arrays() const override { return arrays_; }
  std::string device_description() override { return team_->device(0).description(); }

 private:
  BatchRequest request_of(int64_t batch) const {
    BatchRequest request{0, batch, {}};
    for (int i = 0; i < shares_; ++i) request.devices.push_back({i, i + 1});
    return request;
  }

  // Fills values_ with the results of these batches, in order.
  Status compute_round(const BatchRange& round, int64_t end) {
    std::vector<HostBatch> rows;  // one a device; of the last round fewer
    std::vector<int64_t> first;   // row of the round
    int64_t count = 0;
    for (int64_t batch = round.begin; batch < round.end; ++batch) {
      for (HostBatch& share : loader_.take(request_of(batch))) {
        first.push_back(count);
        count += share.rows;
        rows.push_back(std::move(share));
      }
    }
    if (round.end < end) loader_.prefetch(request_of(round.end));
    values_.resize(arrays_.size());
    for (size_t i = 0; i < values_.size(); ++i) {
      values_[i].resize(static_cast<size_t>(count * element_count(graph_.output_shapes[i])));
    }
    std::vector<Status> statuses(rows.size());
    team_->run([&](int i) {
      const auto index = static_cast<size_t>(i);
      if (index < rows.size()) statuses[index] = predict(i, rows[index], first[index]);
    });
    return first_error(statuses);
  }

  // On the device's thread.
  Status predict(int index, const HostBatch& batch, int64_t first) {
    if (batch.rows == 0) return {};
    LOCKSTEP_ASSIGN(Program * program, programs_[index]->program_for({0, {batch.rows}, {{0, 0}}}));
    float no_metrics = 0;
    float* roots[] = {&no_metrics};
    RunContext context;
    context.weights = weights_[index]->data();
    context.roots = roots;
    context.batch = &batch;
    LOCKSTEP_RETURN_IF_ERROR(program->run(context, {}));
    for (size_t i = 0; i < values_.size(); ++i) {
      float* to = values_[i].data() + first * element_count(graph_.output_shapes[i]);
      LOCKSTEP_RETURN_IF_ERROR(program->download_output(to, static_cast<int>(i)));
    }
    return {};
  }

  const Graph graph_;
  const std::unique_ptr<DeviceTeam> team_;
  const int shares_;  // of a batch
  const std::vector<ResultArray> arrays_;
  BatchLoader loader_;
  std::vector<std::unique_ptr<Buffer>> weights_;       // one a device
  std::vector<std::unique_ptr<ProgramSet>> programs_;  // one a device
  std::vector<std::vector<float>> values_;             // of the round, for each output
};

}  // namespace

Result<std::unique_ptr<BatchWorker>> make_predicting_worker(const BatchTask& task, Graph graph,
                                                            const Dataset& dataset,
                                                            const std::vector<float>& weights,
                                                            int devices,
                                                            const DeviceFactory& factory) {
  LOCKSTEP_RETURN_IF_ERROR(check_weight_count(weights, graph));
  LOCKSTEP_ASSIGN(auto team, DeviceTeam::create(devices, factory));
  auto worker =
      std::make_unique<PredictingWorker>(task, std::move(graph), dataset, std::move(team));
  LOCKSTEP_RETURN_IF_ERROR(worker->upload(weights));
  return std::unique_ptr<BatchWorker>(std::move(worker));
}

Result<std::unique_ptr<BatchWorker>> make_batch_worker(const BatchTask& task, const Model& model,
                                                       const Dataset& dataset,
                                                       const std::vector<float>& weights,
                                                       int devices, const DeviceFactory& factory) {
  LOCKSTEP_ASSIGN(Graph graph, model.predict_graph());
  if (!task.measured) {
    return make_predicting_worker(task, std::move(graph), dataset, weights, devices, factory);
  }
  LOCKSTEP_RETURN_IF_ERROR(check_weight_count(weights, graph));
  LOCKSTEP_ASSIGN(auto replica, Replica::create(*task.measured, model, devices, factory));
  LOCKSTEP_RETURN_IF_ERROR(replica->set_weights(weights));
  return std::unique_ptr<BatchWorker>(
      std::make_unique<MeasuringWorker>(task, dataset, std::move(replica)));
}

}  // namespace lockstep
