#include "host/runtime/replica.h"

namespace lockstep {

Status Replica::measure(int64_t batch, int64_t rows, const std::vector<PartitionRange>& ranges,
                        const std::vector<HostBatch>& batches, std::vector<ValidationPart>* parts) {
  LOCKSTEP_ASSIGN(const double penalty, this->penalty());
  std::vector<Status> statuses(ranges.size());
  std::vector<std::vector<ValidationPart>> measured(ranges.size());
  team_->run([&](int index) {
    const PartitionGroup group = measured_group(rows, job_.partitions, ranges[index]);
    if (group.roots.empty()) return;
    auto program = programs_[index]->program_for(evaluation_, group);
    if (!program.ok()) {
      statuses[index] = program.error();
      return;
    }
    const auto count = static_cast<size_t>(evaluation_.flat_size);
    std::vector<float> metrics(group.roots.size() * count);
    float* memory = device_metrics_.empty() ? metrics.data() : device_metrics_[index]->data();
    std::vector<float*> roots;
    for (size_t i = 0; i < group.roots.size(); ++i) roots.push_back(memory + i * count);
    RunContext context;
    context.weights = weights_of(index);
    context.roots = roots;
    context.batch = &batches[index];
    statuses[index] = (*program)->run(context, {});
    if (statuses[index].ok() && !device_metrics_.empty()) {
      statuses[index] = team_->device(index).copy_to_host(
          memory, static_cast<int64_t>(metrics.size()), metrics.data());
    }
    for (size_t i = 0; i < group.roots.size() && statuses[index].ok(); ++i) {
      const int partition = group.roots[i].first;
      const std::span<const float> sums(&metrics[i * count], count);
      measured[index].push_back(
          {batch, partition, metrics_.sums(sums, group.rows[partition - group.first], penalty)});
    }
  });
  for (const auto& of_device : measured)
    parts->insert(parts->end(), of_device.begin(), of_device.end());
  return first_error(statuses);
}

}  // namespace lockstep
