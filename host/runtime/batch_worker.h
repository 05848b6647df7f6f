// Computes batches of a BatchTask on this machine's devices.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "host/core/result.h"
#include "host/data/dataset.h"
#include "host/graph/graph.h"
#include "host/nn/model.h"
#include "host/runtime/batch_task.h"
#include "host/runtime/device_team.h"

namespace lockstep {

// One owner, which calls it from the thread that made it.
class BatchWorker {
 public:
  virtual ~BatchWorker() = default;

  // Gets the results in order, of each array: those of one batch or a few. An error ends the work.
  using Take = std::function<Status(int array, std::string_view bytes)>;
  // The bits of a batch depend neither on the others nor on the number of devices.
  virtual Status compute(const BatchRange& batches, const Take& take) = 0;
  virtual const std::vector<ResultArray>& arrays() const = 0;
  virtual std::string device_description() = 0;
};

// Of either kind. `dataset` outlives the worker, fits the model and has a row. Refuses weights that
// are not as many as the model's.
Result<std::unique_ptr<BatchWorker>> make_batch_worker(const BatchTask& task, const Model& model,
                                                       const Dataset& dataset,
                                                       const std::vector<float>& weights,
                                                       int devices, const DeviceFactory& factory);
// Of predictions by this predict_graph.
Result<std::unique_ptr<BatchWorker>> make_predicting_worker(const BatchTask& task, Graph graph,
                                                            const Dataset& dataset,
                                                            const std::vector<float>& weights,
                                                            int devices,
                                                            const DeviceFactory& factory);

}  // namespace lockstep
