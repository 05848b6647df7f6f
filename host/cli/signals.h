// SIGINT and SIGTERM, taken by one thread of their own. Who presses Ctrl-C a second time doesn't
// want to wait for what the first has begun: the process ends at once.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <thread>

namespace lockstep {

// Made first in main, before any other thread, so that every thread leaves the signals to it.
class SignalWatcher {
 public:
  SignalWatcher();
  ~SignalWatcher();
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

  // Called once, on the watcher's thread, at the first signal; at once if it has come already.
  void on_signal(std::function<void(int)> callback);
  void forget_callback();
  // From now on the process is ended at once where it is still there so long after the first
  // signal; 0: it is not.
  void end_within(int ms) { limit_ms_ = ms; }
  // The first signal that came; 0 for none.
  int received() const { return received_; }

 private:
  void watch();

  std::mutex mutex_;
  std::function<void(int)> callback_;
  std::atomic<int> received_{0};
  std::atomic<int> limit_ms_{0};
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace lockstep
