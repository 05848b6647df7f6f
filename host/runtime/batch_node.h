// A node whose coordinator measures or predicts: takes batches, computes them, delivers the
// results, until there are none.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "host/data/dataset.h"
#include "host/runtime/batch_task.h"
#include "host/runtime/batch_worker.h"
#include "host/runtime/coordinator_link.h"
#include "host/runtime/node_runtime.h"

namespace lockstep {

// As NodeRuntime, once the coordinator has said hello.
class BatchNode {
 public:
  // All outlive it.
  BatchNode(const NodeOptions& options, Network& network, ControlClient& control,
            const Welcome& welcome);
  Status run();
  void stop(const std::string& reason);

 private:
  Status prepare();
  int devices() const;
  Result<std::vector<OpDigest>> canary(const Model& model, const std::vector<float>& weights) const;
  Status join();
  Result<std::vector<float>> fetch_weights();
  Status work();
  Status compute(const BatchRange& batches);
  Status send(ResultPart* part);
  // Makes the call again where it fails and may not the next time, for a while.
  Status until_answered(const std::function<Status()>& call);
  // Why the node must end, if it must.
  const std::optional<StopEvent>& look_around();

  const NodeOptions& options_;
  Network& network_;
  ControlClient& control_;
  const Welcome& welcome_;
  BatchTask task_;
  Dataset dataset_;
  std::unique_ptr<BatchWorker> worker_;  // nothing where the data is not the work's
  std::vector<OpDigest> canary_;
  std::optional<StopEvent> stop_;
  std::mutex mutex_;  // of what stop() touches
  bool over_ = false;
  std::unique_ptr<CoordinatorLink> link_;
};

}  // namespace lockstep
