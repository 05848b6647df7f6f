// Loss and metrics of trained weights on a data set, on this machine's devices.
#pragma once

#include <vector>

#include "host/core/metric_sums.h"
#include "host/core/result.h"
#include "host/data/dataset.h"
#include "host/job/job.h"
#include "host/nn/model.h"
#include "host/runtime/device_team.h"

namespace lockstep {

struct Evaluation {
  int64_t rows = 0;
  MetricSums sums;  // of the job's MetricTable
};

// The batches are cut and summed as the job's are, so the numbers do not depend on `devices`.
Result<Evaluation> evaluate(const Job& job, const Model& model, const std::vector<float>& weights,
                            const Dataset& dataset, int devices, const DeviceFactory& factory);

}  // namespace lockstep
