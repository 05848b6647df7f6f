#include "host/runtime/device_team.h"

#include <sched.h>

#include <algorithm>
#include <fstream>

namespace lockstep {
namespace {

// A step has several hand-overs, each too short to sleep through. About 0.1 ms.
constexpr int kSpins = 4000;

template <class Condition>
void spin_until(const Condition& condition) {
  for (int i = 0; i < kSpins && !condition(); ++i) __builtin_ia32_pause();
}

}  // namespace

Result<std::unique_ptr<DeviceTeam>> DeviceTeam::create(int devices, const DeviceFactory& factory) {
  std::vector<std::unique_ptr<Device>> made;
  for (int index = 0; index < devices; ++index) {
    LOCKSTEP_ASSIGN(auto device, factory(index));
    made.push_back(std::move(device));
  }
  std::unique_ptr<DeviceTeam> team(new DeviceTeam(std::move(made)));
  if (devices > 1 && !team->device(0).shares_host_memory()) team->make_links();
  return team;
}

DeviceTeam::DeviceTeam(std::vector<std::unique_ptr<Device>> devices)
    : devices_(std::move(devices)) {
  devices_[0]->attach_thread();
  for (int index = 1; index < size(); ++index) {
    threads_.emplace_back([this, index] { work(index); });
  }
}

void DeviceTeam::make_links() {
  links_.resize(devices_.size());
  const Status connected = connect();
  if (connected.ok()) {
    way_ = links_[0]->description();
    return;
  }
  run([this](int index) { links_[static_cast<size_t>(index)].reset(); });
  links_.clear();
  way_ = "the host's memory: " + connected.error().message;
}

Status DeviceTeam::connect() {
  LOCKSTEP_ASSIGN(const std::string id, devices_[0]->link_id());
  std::vector<Status> statuses(devices_.size());
  run([&](int index) {
    auto link = devices_[static_cast<size_t>(index)]->link({id, index, size()});
    if (link.ok()) {
      links_[static_cast<size_t>(index)] = std::move(link).value();
    } else {
      statuses[static_cast<size_t>(index)] = link.error();
    }
  });
  return first_error(statuses);
}

DeviceTeam::~DeviceTeam() {
  if (!links_.empty()) {
    // A device that still moves something needs the others.
    run([this](int index) { static_cast<void>(links_[static_cast<size_t>(index)]->finish()); });
    run([this](int index) { links_[static_cast<size_t>(index)].reset(); });
  }
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void DeviceTeam::run(const std::function<void(int)>& task) {
  {
    const std::lock_guard lock(mutex_);
    task_ = &task;
    ++generation_;
    running_ = static_cast<int>(threads_.size());
  }
  if (!threads_.empty()) changed_.notify_all();
  task(0);
  spin_until([this] { return running_ == 0; });
  if (running_ == 0) return;
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return running_ == 0; });
}

void DeviceTeam::work(int index) {
  devices_[index]->attach_thread();
  int64_t seen = 0;
  while (true) {
    spin_until([&] { return generation_ != seen; });
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stopping_ || generation_ != seen; });
    if (stopping_) return;
    seen = generation_;
    const std::function<void(int)>* task = task_;
    lock.unlock();
    (*task)(index);
    lock.lock();
    if (--running_ == 0) changed_.notify_all();
    lock.unlock();
  }
}

int available_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cpus = 1;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cpus = std::max(1, CPU_COUNT(&set));
  std::ifstream quota_file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (quota_file >> quota >> period && quota != "max" && period > 0) {
    cpus = std::min(cpus, std::max(1, static_cast<int>(std::stod(quota) / period)));
  }
  return cpus;
}

}  // namespace lockstep
