// A node: joins a coordinator, trains its partitions, and leaves.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "host/core/result.h"
#include "host/data/dataset.h"
#include "host/job/job.h"
#include "host/runtime/device_team.h"
#include "host/runtime/node_gauges.h"
#include "host/runtime/stream.h"

namespace lockstep {

struct NodeOptions {
  Address coordinator;
  Address listen{"127.0.0.1", 0};
  std::string advertise;  // HOST:PORT; "": the address that the coordinator sees
  std::string name;       // a label
  std::string data;       // where the data is here; "": where the job says
  std::string validation_data;
  int devices = 0;  // 0: as many as there are
  int connect_timeout_ms = 10'000;
  int coordinator_away_ms = 1'800'000;  // how long it waits for one that it has joined
  // How many devices this machine has for the job's numerics, and one of them.
  std::function<int(const std::string& numerics)> available_devices;
  std::function<Result<std::unique_ptr<Device>>(const std::string& numerics, int index)>
      make_device;
  std::function<void(const std::string&)> log;
  std::shared_ptr<NodeGauges> gauges = std::make_shared<NodeGauges>();
};

class NodeSession;

// One node's life. run() blocks until the job is over, stop() ends it from another thread.
class NodeRuntime {
 public:
  NodeRuntime(NodeOptions options, Network& network);
  ~NodeRuntime();
  // Success: the job completed, or this node has handed over. Otherwise the error's kind is the
  // exit code.
  Status run();
  // Asks to leave: run() returns when others have taken over, or after a while all the same. Called
  // again, or before the node has joined, it ends at once. Any thread.
  void stop(const std::string& reason);

 private:
  std::unique_ptr<NodeSession> session_;
};

// The training and validation rows of a job, from one or two data sets.
struct JobData {
  Dataset train;
  Dataset validation_set;  // empty where the validation rows are the last of the training set
  RowRange train_rows;
  RowRange validation_rows;
  const Dataset& validation() const { return validation_set.rows() > 0 ? validation_set : train; }
};
// From these places, which need not be the job's; "" for no validation data. `read_before`: the
// training data as options by default read it, if it is not empty.
Result<JobData> load_job_data(const Job& job, const std::string& data,
                              const std::string& validation_data, Dataset read_before = {});

}  // namespace lockstep
