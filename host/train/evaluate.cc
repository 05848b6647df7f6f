#include "host/train/evaluate.h"

#include "host/job/data_job.h"
#include "host/job/metric_table.h"
#include "host/runtime/replica.h"

namespace lockstep {

Result<Evaluation> evaluate(const Job& job, const Model& model, const std::vector<float>& weights,
                            const Dataset& dataset, int devices, const DeviceFactory& factory) {
  LOCKSTEP_ASSIGN(auto replica, Replica::create(job, model, devices, factory));
  LOCKSTEP_RETURN_IF_ERROR(replica->set_weights(weights));
  BatchLoader loader(dataset, measuring_loader(job, {0, dataset.rows()}));
  const auto ranges = replica->device_ranges({0, job.partitions});
  Evaluation result{dataset.rows(), MetricSums(static_cast<size_t>(MetricTable(job).size()))};
  for (int64_t batch = 0; batch < loader.batches_per_epoch(); ++batch) {
    const auto rows = loader.take({0, batch, ranges});
    if (batch + 1 < loader.batches_per_epoch()) loader.prefetch({0, batch + 1, ranges});
    std::vector<ValidationPart> parts;
    LOCKSTEP_RETURN_IF_ERROR(
        replica->measure(batch, loader.rows_of_batch(batch), ranges, rows, &parts));
    add_batch(parts, job.partitions, &result.sums);
  }
  return result;
}

}  // namespace lockstep
