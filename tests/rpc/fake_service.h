// A ControlService that remembers what it was told, for the tests of rpc/.
#pragma once

#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "host/runtime/control.h"

namespace lockstep {

class FakeService final : public ControlService {
 public:
  // Set before the server starts.
  Welcome welcome{7, 3, "{\"epochs\":2}"};
  PollReply reply;
  WorkReply work;
  std::string state;  // what fetch reads
  Status answer;      // of every call that can fail
  int poll_takes_ms = 0;
  int disk_takes_ms = 0;  // of uploads and fetches

  Result<Welcome> hello(const Hello& said) override {
    record([&] { hello_ = said; });
    if (!answer.ok()) return answer.error();
    return welcome;
  }
  Status join(const JoinRequest& request, const std::string& peer_host) override {
    record([&] {
      join_ = request;
      peer_host_ = peer_host;
    });
    return answer;
  }
  Result<PollReply> poll(const PollRequest& request) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(poll_takes_ms));
    record([&] { poll_ = request; });
    if (!answer.ok()) return answer.error();
    return reply;
  }
  Status attach(SessionId session, const Standing& standing) override {
    record([&] {
      session_ = session;
      standing_ = standing;
    });
    return answer;
  }
  Status report_held(const HeldReport& report) override {
    record([&] { held_ = report; });
    return answer;
  }
  Status report_step(const StepReport& report) override {
    record([&] { step_ = report; });
    return answer;
  }
  Status report_epoch(const EpochReport& report) override {
    record([&] { epoch_ = report; });
    return answer;
  }
  Status report_fault(const FaultReport& report) override {
    record([&] { fault_ = report; });
    return answer;
  }
  Status upload(const StatePart& part) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(disk_takes_ms));
    record([&] {
      part_ = part;
      uploaded_ += static_cast<int64_t>(part.bytes.size());
    });
    return answer;
  }
  Result<std::string> fetch(SessionId session, const std::string& object, int64_t offset) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(disk_takes_ms));
    record([&] {
      session_ = session;
      object_ = object;
      offset_ = offset;
    });
    if (!answer.ok()) return answer.error();
    return state;
  }
  Status ask_to_leave(SessionId session) override {
    record([&] {
      session_ = session;
      asked_to_leave_ = true;
    });
    return answer;
  }
  Status leave(SessionId session) override {
    record([&] { session_ = session; });
    return answer;
  }
  std::string status() override {
    record([] {});
    return "{\"step\":12}";
  }
  Result<NewestState> newest_state() override {
    record([] {});
    if (!answer.ok()) return answer.error();
    return NewestState{12, "object", welcome.job, 0.25};
  }
  Result<std::string> read_state(const std::string& object, int64_t offset) override {
    return fetch(0, object, offset);
  }
  Result<WorkReply> next_batches(const WorkRequest& request) override {
    record([&] { work_ = request; });
    if (!answer.ok()) return answer.error();
    return work;
  }
  Status deliver(const ResultPart& part) override {
    record([&] { result_ = part; });
    return answer;
  }
  void connection_lost(SessionId session) override {
    const std::lock_guard lock(mutex_);
    lost_.push_back(session);
  }

  // Any thread; copies.
  std::vector<SessionId> lost() {
    const std::lock_guard lock(mutex_);
    return lost_;
  }
  void forget_lost() {
    const std::lock_guard lock(mutex_);
    lost_.clear();
  }
  int calls() {
    const std::lock_guard lock(mutex_);
    return calls_;
  }

  // What the last calls said: read them when no call is on its way.
  Hello hello_;
  JoinRequest join_;
  std::string peer_host_;
  PollRequest poll_;
  SessionId session_ = 0;
  Standing standing_;
  HeldReport held_;
  StepReport step_;
  EpochReport epoch_;
  FaultReport fault_;
  StatePart part_;
  WorkRequest work_;
  ResultPart result_;
  std::string object_;
  int64_t offset_ = 0;
  bool asked_to_leave_ = false;
  int64_t uploaded_ = 0;

 private:
  template <class Function>
  void record(const Function& function) {
    const std::lock_guard lock(mutex_);
    ++calls_;
    function();
  }

  std::mutex mutex_;
  int calls_ = 0;
  std::vector<SessionId> lost_;
};

// Whether the condition comes true within `timeout_ms`.
template <class Condition>
bool eventually(const Condition& condition, int timeout_ms = 2000) {
  for (int waited_ms = 0; waited_ms < timeout_ms; waited_ms += 2) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return condition();
}

class Stopwatch {
 public:
  int ms() const {
    return static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                std::chrono::steady_clock::now() - start_)
                                .count());
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

inline const Address kAnyPort{"127.0.0.1", 0};

}  // namespace lockstep
