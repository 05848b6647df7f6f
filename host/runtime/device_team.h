// The devices of a node, a thread each: device 0 is worked by the calling thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "host/core/result.h"
#include "host/device/device.h"

namespace lockstep {

using DeviceFactory = std::function<Result<std::unique_ptr<Device>>(int index)>;

// Not thread-safe: one owner calls run(), always from the thread that made the team.
class DeviceTeam {
 public:
  static Result<std::unique_ptr<DeviceTeam>> create(int devices, const DeviceFactory& factory);
  ~DeviceTeam();
  DeviceTeam(const DeviceTeam&) = delete;
  DeviceTeam& operator=(const DeviceTeam&) = delete;

  int size() const { return static_cast<int>(devices_.size()); }
  Device& device(int index) { return *devices_[index]; }
  // Of devices that do not share the host's memory: direct ways between them, where there are any;
  // else nullptr, and what they exchange goes through the host.
  DeviceLink* link(int index) const {
    return links_.empty() ? nullptr : links_[static_cast<size_t>(index)].get();
  }
  // How they exchange: "NCCL 2.28.9", or why through the host; "" where they need not.
  const std::string& way() const { return way_; }
  // Runs task(0) … task(size - 1), each on its device's thread, and waits for all.
  void run(const std::function<void(int)>& task);

 private:
  explicit DeviceTeam(std::vector<std::unique_ptr<Device>> devices);
  void work(int index);
  void make_links();
  Status connect();

  std::vector<std::unique_ptr<Device>> devices_;
  std::vector<std::unique_ptr<DeviceLink>> links_;  // one a device, or none
  std::string way_;
  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void(int)>* task_ = nullptr;
  std::atomic<int64_t> generation_{0};
  std::atomic<int> running_{0};
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

// What `--devices auto` counts: the CPUs that this process may use (affinity and cgroup quota).
int available_cpus();

}  // namespace lockstep
