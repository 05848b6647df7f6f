// The nodes that `train` starts on this machine: child processes, started again when they die.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "host/cli/restarts.h"
#include "host/core/result.h"
#include "host/job/run_options.h"
#include "host/runtime/child_process.h"

namespace lockstep {

// What `lockstep` is told to be a node of this machine, for a coordinator at this port.
struct LocalNode {
  int port = 0;
  std::string name;
  int index = 0;  // of the machine's
  int devices = 1;
  std::string device;  // kind
  std::string data;
  bool json_logs = false;
};
std::vector<std::string> node_arguments(const LocalNode& node);

// Main thread only: the children die with the thread that starts them.
class LocalNodes {
 public:
  // Starts the node of a name, the index-th on this machine.
  using Spawn = std::function<Result<ChildProcess>(const std::string& name, int index)>;
  // `say` gets lines for people.
  LocalNodes(NodeCounts counts, Spawn spawn, std::function<void(const std::string&)> say)
      : counts_(counts), spawn_(std::move(spawn)), say_(std::move(say)) {}

  // As many as may join: "node-0", "node-1", …
  Status start();

  // What the coordinator knows.
  struct Seen {
    bool begun = false;             // a view was made; before that a node that fails ends the job
    std::set<std::string> worked;   // names of nodes that did some work since the last call
    std::set<std::string> present;  // that have joined, and are not known to be gone
  };
  // Starts again what has died, once the coordinator knows of it: before that it would refuse one
  // node too many. Returns why the job cannot go on, if so.
  std::optional<std::string> tend(const Seen& seen);

  // Kills the last node, as a fault would; its name, or nothing where it does not run.
  std::optional<std::string> kill_one();
  // The job is over: they end by themselves, or are ended.
  void end();

 private:
  struct Node {
    int index = 0;
    std::string name;
    std::optional<ChildProcess> process;
    int64_t begun_ms = 0;
    int64_t ended_ms = 0;
    std::optional<int> failed;  // the exit code of a process that has failed, until it is seen to
    std::optional<int64_t> start_ms;  // when it is to be started again
    bool worked = false;
    bool gone = false;  // done, or handed over
    RestartPolicy policy;
  };
  Status start_process(Node& node);
  void look_after(Node& node);
  std::optional<std::string> see_to_failure(Node& node, bool begun);
  std::optional<std::string> too_few(bool begun);

  const NodeCounts counts_;
  const Spawn spawn_;
  const std::function<void(const std::string&)> say_;
  std::vector<Node> nodes_;
  std::optional<int64_t> too_few_since_ms_;
};

}  // namespace lockstep
