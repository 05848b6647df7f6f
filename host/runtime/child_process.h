// Child processes that die with their parent.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "host/core/result.h"

namespace lockstep {

// One owner; the destructor kills the process if it still runs.
class ChildProcess {
 public:
  // Runs this very program with `arguments`, in a process group of its own so that a Ctrl-C goes to
  // the parent alone. The child is killed when the calling thread ends: call it on the main thread.
  // Its standard output goes to the file `output`, or where the parent's goes for "".
  static Result<ChildProcess> spawn_self(const std::vector<std::string>& arguments,
                                         const std::string& output = "");

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();

  pid_t pid() const { return pid_; }
  // Its exit code (128 + signal where a signal ended it), or nothing while it runs.
  std::optional<int> poll();
  std::optional<int> wait(int timeout_ms);
  void signal(int number) const;

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}
  pid_t pid_ = -1;
  std::optional<int> exit_code_;
};

}  // namespace lockstep
