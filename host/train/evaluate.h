// Loss and metrics of trained weights on a data set.
#pragma once

#include <map>
#include <mutex>
#include <vector>

#include "host/core/metric_sums.h"
#include "host/core/result.h"
#include "host/data/dataset.h"
#include "host/job/job.h"
#include "host/nn/model.h"
#include "host/runtime/device_team.h"
#include "host/runtime/result_sink.h"

namespace lockstep {

// The sums of batches, added in the order of the batches, in whichever they come.
class EvaluationSums final : public ResultSink {
 public:
  // `count`: of each batch.
  explicit EvaluationSums(int64_t count) : total_(static_cast<size_t>(count)) {}
  // Of whole batches.
  Status write(int array, int64_t offset, std::string_view bytes) override;
  // Once all are there.
  const MetricSums& total() const { return total_; }

 private:
  std::mutex mutex_;
  MetricSums total_;
  int64_t next_ = 0;                     // the first batch that is not in it
  std::map<int64_t, MetricSums> early_;  // those that came before it
};

struct Evaluation {
  int64_t rows = 0;
  MetricSums sums;  // of the job's MetricTable
};

// On this machine's devices. The batches are cut and summed as the job's are, so the numbers do not
// depend on `devices`.
Result<Evaluation> evaluate(const Job& job, const Model& model, const std::vector<float>& weights,
                            const Dataset& dataset, int devices, const DeviceFactory& factory);

}  // namespace lockstep
