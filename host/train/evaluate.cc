#include "host/train/evaluate.h"

#include <cstring>

#include "host/job/data_job.h"
#include "host/runtime/batch_worker.h"

namespace lockstep {

Status EvaluationSums::write(int, int64_t offset, std::string_view bytes) {
  const auto size = static_cast<int64_t>(total_.size() * sizeof(double));
  if (offset % size != 0 || std::ssize(bytes) % size != 0) {
    return refused_error("results that are not of whole batches");
  }
  const std::lock_guard lock(mutex_);
  for (int64_t at = 0; at < std::ssize(bytes); at += size) {
    const int64_t batch = (offset + at) / size;
    if (batch < next_) continue;  // a second time
    MetricSums sums(total_.size());
    std::memcpy(sums.data(), bytes.data() + at, static_cast<size_t>(size));
    early_[batch] = std::move(sums);
  }
  for (auto first = early_.begin(); first != early_.end() && first->first == next_; ++next_) {
    for (size_t i = 0; i < total_.size(); ++i) total_[i] += first->second[i];
    first = early_.erase(first);
  }
  return {};
}

Result<Evaluation> evaluate(const Job& job, const Model& model, const std::vector<float>& weights,
                            const Dataset& dataset, int devices, const DeviceFactory& factory) {
  BatchTask task;
  task.measured = job;
  task.batch_size = job.batch_size;
  LOCKSTEP_ASSIGN(const auto worker,
                  make_batch_worker(task, model, dataset, weights, devices, factory));
  const ResultArray& array = worker->arrays().at(0);
  EvaluationSums sums(array.bytes_of_batch / static_cast<int64_t>(sizeof(double)));
  int64_t offset = 0;
  LOCKSTEP_RETURN_IF_ERROR(worker->compute({0, batches_of(task, dataset.rows())},
                                           [&](int, std::string_view bytes) -> Status {
                                             const Status written = sums.write(0, offset, bytes);
                                             offset += std::ssize(bytes);
                                             return written;
                                           }));
  return Evaluation{dataset.rows(), sums.total()};
}

}  // namespace lockstep
