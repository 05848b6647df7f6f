#include "host/cli/signals.h"

#include <signal.h>

#include <ctime>

#include "host/runtime/clock.h"

namespace lockstep {
namespace {

sigset_t watched_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGINT);
  ::sigaddset(&set, SIGTERM);
  return set;
}

// As if nobody had watched.
void end_at_once(int number) {
  ::signal(number, SIG_DFL);
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, number);
  ::raise(number);
  ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

}  // namespace

SignalWatcher::SignalWatcher() {
  const sigset_t set = watched_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  thread_ = std::thread([this] { watch(); });
}

SignalWatcher::~SignalWatcher() {
  stopping_ = true;
  thread_.join();
}

void SignalWatcher::on_signal(std::function<void(int)> callback) {
  const std::lock_guard lock(mutex_);
  callback_ = std::move(callback);
  if (received_ != 0) callback_(received_);
}

void SignalWatcher::forget_callback() {
  const std::lock_guard lock(mutex_);
  callback_ = nullptr;
}

void SignalWatcher::watch() {
  const sigset_t set = watched_signals();
  int64_t received_ms = 0;
  while (!stopping_) {
    const bool late = limit_ms_ > 0 && monotonic_ms() - received_ms > limit_ms_;
    if (received_ != 0 && late) end_at_once(received_);
    const timespec pause{0, 50'000'000};
    const int number = ::sigtimedwait(&set, nullptr, &pause);
    if (number <= 0) continue;
    if (received_ != 0) {
      if (number == SIGINT && received_ == SIGINT) end_at_once(number);
      continue;
    }
    const std::lock_guard lock(mutex_);
    received_ms = monotonic_ms();
    received_ = number;
    if (callback_) callback_(number);
  }
}

}  // namespace lockstep
