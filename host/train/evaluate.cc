#include "host/train/evaluate.h"

#include "host/job/data_job.h"
#include "host/runtime/replica.h"

namespace lockstep {
namespace {

// One batch's metrics, its partitions summed in the order of the tree.
void add_batch(const std::vector<ValidationPart>& parts, int partitions, Evaluation* sum) {
  std::vector<float> losses(static_cast<size_t>(partitions));
  std::vector<bool> present(losses.size());
  for (const ValidationPart& part : parts) {
    losses[part.partition] = part.loss_sum;
    present[part.partition] = true;
    sum->rows += part.rows;
    sum->accuracy += static_cast<double>(part.correct);
  }
  float loss = 0;
  if (tree_sum(losses, present, &loss)) sum->loss += static_cast<double>(loss);
}

}  // namespace

Result<Evaluation> evaluate(const Job& job, const Model& model, const std::vector<float>& weights,
                            const Dataset& dataset, int devices, const DeviceFactory& factory) {
  LOCKSTEP_ASSIGN(auto replica, Replica::create(job, model, devices, factory));
  LOCKSTEP_RETURN_IF_ERROR(replica->set_weights(weights));
  BatchLoader loader(dataset, measuring_loader(job, {0, dataset.rows()}));
  const auto ranges = replica->device_ranges({0, job.partitions});
  Evaluation result;
  for (int64_t batch = 0; batch < loader.batches_per_epoch(); ++batch) {
    const auto rows = loader.take({0, batch, ranges});
    if (batch + 1 < loader.batches_per_epoch()) loader.prefetch({0, batch + 1, ranges});
    std::vector<ValidationPart> parts;
    LOCKSTEP_RETURN_IF_ERROR(
        replica->measure(batch, loader.rows_of_batch(batch), ranges, rows, &parts));
    add_batch(parts, job.partitions, &result);
  }
  if (result.rows == 0) return result;
  result.loss /= static_cast<double>(result.rows);
  result.accuracy /= static_cast<double>(result.rows);
  return result;
}

}  // namespace lockstep
