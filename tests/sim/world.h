// One simulated cluster: a clock, a queue of what will happen, one source of chance, a trace, and
// the first rule that was broken. Everything follows from the seed.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "host/cluster/coordinator.h"
#include "host/core/rng.h"
#include "tests/sim/toy_model.h"

namespace lockstep::sim {

inline constexpr int64_t kMs = 1000;  // in microseconds, the unit of the clock
inline constexpr int64_t kSecond = 1000 * kMs;

class Random {
 public:
  explicit Random(uint64_t seed) : state_(mix64(seed + 0x9e3779b97f4a7c15u)) {}
  uint64_t bits() { return mix64(state_ += 0x9e3779b97f4a7c15u); }
  // In [low, high].
  int64_t between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(bits() % static_cast<uint64_t>(high - low + 1));
  }
  bool chance(int percent) { return between(0, 99) < percent; }

 private:
  uint64_t state_;
};

// How often each thing happened; printed, so that one sees that faults happened.
using Counters = std::map<std::string, int64_t, std::less<>>;

// Which faults a run has.
struct FaultPlan {
  bool kills = false;
  bool freezes = false;
  bool coordinator_kills = false;
  bool kills_of_all = false;
  bool links = false;
  bool silences = false;
  bool leaves = false;
  bool connections = false;
  bool slow_disk = false;
  bool flips = false;
  bool interrupts = false;  // Ctrl-C of `train`, which is then begun again
  bool one_kill = false;    // exactly one, and nothing else
  int64_t mean_gap_us = kSecond;
  int64_t until_us = 0;
  bool any() const { return until_us > 0; }
};

// What differs between jobs and machines.
struct Setting {
  ClusterFacts facts;
  int slots = 1;  // machines
  FaultPlan faults;
  int64_t compute_us = 20 * kMs;
  int64_t message_us = 1 * kMs;
  int late_percent = 0;  // of the calls to the coordinator come much later
  int64_t disk_us = 2 * kMs;
};

class Head;
class Network;
class SimNode;
class Store;
class Faults;

class World {
 public:
  World(uint64_t seed, bool print_trace);
  ~World();

  // To completion, or to the first broken rule: its text, or "".
  std::string run();

  int64_t now_us() const { return now_us_; }
  int64_t now_ms() const { return now_us_ / kMs; }
  void after(int64_t delay_us, std::function<void()> what);
  void fail(const std::string& what);
  void finish() { finished_ = true; }
  bool over() const { return finished_ || !failure_.empty(); }
  void count(std::string_view what, int64_t by = 1);

  // Every happening, in order: hashed always, printed when asked for.
  template <class... Args>
  void trace(std::string_view format, const Args&... args) {
    mix(static_cast<uint64_t>(now_us_));
    for (const char c : format) mix(static_cast<uint64_t>(c));
    (mix_value(args), ...);
    if (print_trace_) print(fmt::format(fmt::runtime(format), args...));
  }
  uint64_t trace_hash() const { return hash_; }

  // A process is started in a slot, after a while.
  void start_node(int slot, int64_t delay_us);
  void node_exited(SimNode* node, bool clean);
  // The live process with this session.
  std::shared_ptr<SimNode> node_of(SessionId session);
  std::vector<std::shared_ptr<SimNode>> live_nodes();
  bool faults_over() const { return now_us_ >= setting.faults.until_us; }

  // What must hold, whoever says it.
  void check_state(int64_t step, uint64_t digest, const std::string& who, int era);
  void computed(int era, int64_t step, int partition);
  void sample_ledger_restart(int64_t step);
  void samples(const SamplesConsumed& consumed);
  int64_t rows_before(int64_t step) const;
  void job_completed(const StateRef& state);
  void job_failed(const std::string& reason);
  void member_lost(const std::string& why);

  const uint64_t seed;
  Random random;
  Setting setting;
  Counters counters;
  std::unique_ptr<ToyModel> model;
  Reference reference;
  std::unique_ptr<Store> store;
  std::unique_ptr<Network> network;
  std::unique_ptr<Head> head;
  std::unique_ptr<Faults> faults;
  bool flipped = false;  // a bit somewhere is wrong, and nobody has noticed yet
  std::map<SessionId, int64_t> dead_since_us;
  std::set<SessionId> known_dead;  // as the coordinator has said
  int flips = 0;
  int flip_era = 0;         // states of it and of those before may be wrong
  int deaths = 0;           // of nodes, however they died
  int dead_partitions = 0;  // the most that a dead node had of one step

 private:
  struct Happening {
    int64_t at_us;
    uint64_t order;
    std::function<void()> what;
    bool operator>(const Happening& other) const {
      return at_us != other.at_us ? at_us > other.at_us : order > other.order;
    }
  };
  struct Slot {
    std::shared_ptr<SimNode> node;
    bool starting = false;
  };

  void mix(uint64_t value) { hash_ = mix64(hash_ ^ value) + 0x9e3779b97f4a7c15u; }
  template <class T>
  void mix_value(const T& value) {
    if constexpr (std::is_arithmetic_v<T>) {
      mix(static_cast<uint64_t>(value));
    } else {
      for (const char c : std::string_view(value)) mix(static_cast<uint64_t>(c));
    }
  }
  void print(const std::string& line);
  void check_result();
  void check_cost();
  void count_decisions(const std::vector<EpochRecord>& epochs);
  std::string stuck() const;

  const bool print_trace_;
  int64_t now_us_ = 0;
  uint64_t order_ = 0;
  uint64_t hash_ = 0;
  bool finished_ = false;
  std::string failure_;
  std::priority_queue<Happening, std::vector<Happening>, std::greater<>> queue_;
  std::vector<Slot> slots_;
  std::map<std::tuple<int, int64_t, int>, int> computed_;  // (era, step, partition) -> times
  std::map<std::pair<int64_t, int>, int64_t> ledger_;      // (step, partition) -> rows
  std::optional<StateRef> completed_;
};

Setting make_setting(Random* random);

}  // namespace lockstep::sim
