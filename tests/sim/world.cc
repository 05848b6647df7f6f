#include "tests/sim/world.h"

#include <cstdio>

#include "tests/sim/faults.h"
#include "tests/sim/head.h"
#include "tests/sim/network.h"
#include "tests/sim/sim_node.h"

namespace lockstep::sim {
namespace {

constexpr int64_t kPatienceUs = 120 * kSecond;  // after the last fault the job ends by then

}  // namespace

World::World(uint64_t seed_value, bool print_trace)
    : seed(seed_value), random(seed_value), print_trace_(print_trace) {
  setting = make_setting(&random);
  model = std::make_unique<ToyModel>(setting.facts, seed);
  reference = run_alone(setting.facts, seed);
  store = std::make_unique<Store>();
  network = std::make_unique<Network>(this);
  head = std::make_unique<Head>(this);
  faults = std::make_unique<Faults>(this);
  slots_.resize(static_cast<size_t>(setting.slots));
}

World::~World() = default;

void World::after(int64_t delay_us, std::function<void()> what) {
  queue_.push({now_us_ + std::max<int64_t>(0, delay_us), order_++, std::move(what)});
}

void World::fail(const std::string& what) {
  if (!failure_.empty()) return;
  failure_ = what;
  trace("BROKEN: {}", what);
}

void World::count(std::string_view what, int64_t by) {
  const auto found = counters.find(what);
  if (found == counters.end()) {
    counters.emplace(what, by);
  } else {
    found->second += by;
  }
}

void World::print(const std::string& line) {
  std::printf("%10.3f %s\n", static_cast<double>(now_us_) / 1000, line.c_str());
}

std::string World::run() {
  const ClusterFacts& facts = setting.facts;
  trace(
      "seed {}: P {} batch {} rows {} epochs {} slices {} nodes {}-{} start {} slots {} verify {}",
      seed, facts.partitions, facts.batch_size, facts.train_rows, facts.epochs, facts.slices,
      facts.min_nodes, facts.max_nodes, facts.start_nodes, setting.slots, facts.verify_every);
  head->start(true);
  for (int slot = 0; slot < setting.slots; ++slot) {
    const bool late = slot >= facts.start_nodes && random.chance(70);
    start_node(slot, late ? random.between(0, 5 * kSecond) : random.between(0, 200 * kMs));
  }
  faults->begin();
  const int64_t end_us = setting.faults.until_us + kPatienceUs;
  while (!over() && !queue_.empty()) {
    if (queue_.top().at_us > end_us) {
      fail(stuck());
      break;
    }
    const Happening next = queue_.top();
    queue_.pop();
    now_us_ = next.at_us;
    next.what();
  }
  if (failure_.empty()) check_result();
  // Whoever still holds a closure of somebody holds a process.
  queue_ = {};
  slots_.clear();
  return failure_;
}

std::string World::stuck() const {
  std::string text = "the job does not end: " + head->describe();
  for (const Slot& slot : slots_) {
    if (slot.node) text += "\n    " + slot.node->describe();
  }
  return text;
}

void World::start_node(int slot, int64_t delay_us) {
  Slot& place = slots_[static_cast<size_t>(slot)];
  if (place.starting) return;
  place.starting = true;
  after(delay_us, [this, slot] {
    Slot& free = slots_[static_cast<size_t>(slot)];
    free.starting = false;
    free.node = std::make_shared<SimNode>(this, slot);
    free.node->start();
  });
}

void World::node_exited(SimNode* node, bool clean) {
  ++deaths;
  if (node->session() != 0) dead_since_us[node->session()] = now_us_;
  if (node->machine() != nullptr && node->machine()->view()) {
    const View& view = *node->machine()->view();
    const int index = view.index_of(node->session());
    int most = view.members[static_cast<size_t>(index)].partitions.size();
    most = std::max(most, count_partitions(view.members[static_cast<size_t>(index)].carried));
    dead_partitions = std::max(dead_partitions, most);
  }
  if (clean) count("nodes that ended well");
  const int slot = node->slot();
  const bool soon = faults_over() || random.chance(60);
  start_node(slot, soon ? random.between(10, 500) * kMs : random.between(500, 6000) * kMs);
}

std::shared_ptr<SimNode> World::node_of(SessionId session) {
  for (const Slot& slot : slots_) {
    if (slot.node && slot.node->alive() && slot.node->session() == session) return slot.node;
  }
  return nullptr;
}

std::vector<std::shared_ptr<SimNode>> World::live_nodes() {
  std::vector<std::shared_ptr<SimNode>> live;
  for (const Slot& slot : slots_) {
    if (slot.node && slot.node->alive()) live.push_back(slot.node);
  }
  return live;
}

void World::check_state(int64_t step, uint64_t digest, const std::string& who, int era) {
  if (flips > 0 && era <= flip_era) return;
  if (step >= static_cast<int64_t>(reference.digests.size())) {
    fail(fmt::format("{} trains beyond the end, to step {}", who, step));
  } else if (reference.digests[static_cast<size_t>(step)] != digest) {
    fail(fmt::format("{} has another state[{}] than a run without faults", who, step));
  }
}

void World::computed(int era, int64_t step, int partition) {
  count("partitions computed");
  if (++computed_[{era, step, partition}] > 1) count("partitions computed again");
}

void World::sample_ledger_restart(int64_t step) {
  std::erase_if(ledger_, [&](const auto& entry) { return entry.first.first >= step; });
}

void World::samples(const SamplesConsumed& consumed) {
  for (const PartitionSamples& part : consumed.partitions) {
    const bool fresh = ledger_.emplace(std::pair{consumed.step, part.partition}, part.rows).second;
    if (!fresh) {
      fail(fmt::format("partition {} of step {} is counted twice", part.partition, consumed.step));
    }
    if (part.rows != model->rows(consumed.step, part.partition)) {
      fail(fmt::format("partition {} of step {} counts {} rows", part.partition, consumed.step,
                       part.rows));
    }
  }
}

int64_t World::rows_before(int64_t step) const {
  int64_t rows = 0;
  for (int64_t i = 0; i < step; ++i) rows += setting.facts.rows_of_step(i);
  return rows;
}

void World::job_completed(const StateRef& state) {
  trace("the job is done: step {}", state.step);
  completed_ = state;
  finish();
}

void World::job_failed(const std::string& reason) {
  if (flips >= 2 && reason.find("no majority") != std::string::npos) {
    count("halts, as the design allows");
    finish();
    return;
  }
  fail("the job failed: " + reason);
}

// The only good state may have gone with it: no machine can know, and this run has nothing to say.
void World::member_lost(const std::string& why) {
  if (!flipped || why.find("silent corruption") != std::string::npos) return;
  count("runs that end: a death before a flipped bit was seen");
  finish();
}

void World::check_result() {
  if (!completed_) return;  // it halted
  const ClusterFacts& facts = setting.facts;
  const auto object = store->objects.find(completed_->object);
  if (object == store->objects.end() || object->second != reference.final_bytes) {
    fail("the final weights are not those of a run without faults");
    return;
  }
  int64_t rows = 0;
  for (const auto& [key, count] : ledger_) rows += count;
  const int64_t assigned = rows_before(std::ssize(reference.digests) - 1);
  if (rows != assigned) fail(fmt::format("{} samples were consumed, not {}", rows, assigned));
  std::vector<JobRecord> records;
  for (const Store::Entry& entry : store->log) records.push_back(*decode_record(entry.body));
  const RecoveredJob job = recover_job(records, facts.steps_per_epoch());
  if (!job.ended) fail("the log does not say that the job has ended");
  // A bit that flips between the last digest and the validation spoils a metric, never a weight.
  if (flips == 0 && job.epochs != reference.epochs)
    fail("the epochs' metrics and decisions are not those of a quiet run");
  count_decisions(job.epochs);
  const bool one_death =
      setting.faults.one_kill && deaths == 1 && counters.find("restores") == counters.end();
  if (one_death) check_cost();
  if (one_death) count("runs with one death, whose cost is checked");
}

void World::count_decisions(const std::vector<EpochRecord>& epochs) {
  for (size_t i = 1; i < epochs.size(); ++i) {
    const EpochDecision& decision = epochs[i].decision;
    if (decision.learning_rate != epochs[i - 1].decision.learning_rate) count("rates set");
  }
  if (epochs.empty()) return;
  const EpochRecord& last = epochs.back();
  if (last.decision.stop) count("runs that stopped early");
  if (last.done.cut_at > 0) count("runs that ended within an epoch");
  if (last.decision.best && *last.decision.best != last.done.epoch) count("best weights restored");
}

// What the dead had of the step under way is computed again, and of the next where it was ahead.
void World::check_cost() {
  std::map<int64_t, int> again;
  for (const auto& [key, times] : computed_) {
    if (times > 1) again[std::get<1>(key)] += times - 1;
  }
  for (const auto& [step, partitions] : again) {
    if (partitions <= dead_partitions && again.size() <= 2) continue;
    fail(fmt::format("one death made {} partitions of step {} be computed again, the dead had {}",
                     partitions, step, dead_partitions));
  }
}

namespace {

FaultPlan make_faults(Random* random) {
  FaultPlan plan;
  if (random->chance(10)) return plan;  // a quiet run
  plan.until_us = random->between(500, 12'000) * kMs;
  plan.mean_gap_us = random->between(50, 1500) * kMs;
  if (random->chance(12)) {
    plan.one_kill = true;
    return plan;
  }
  const bool many = random->chance(40);
  const int share = many ? 60 : 20;
  plan.kills = random->chance(share + 20);
  plan.freezes = random->chance(share);
  plan.coordinator_kills = random->chance(share);
  plan.kills_of_all = random->chance(share / 2);
  plan.links = random->chance(share);
  plan.silences = random->chance(share);
  plan.leaves = random->chance(share);
  plan.connections = random->chance(share);
  plan.slow_disk = random->chance(share);
  plan.flips = random->chance(20);
  plan.interrupts = random->chance(share);
  return plan;
}

void add_callbacks(Random* random, ClusterFacts* facts) {
  const char* monitor = facts->validation_rows > 0 ? "val_loss" : "loss";
  facts->epochs += random->between(0, 2);
  if (random->chance(40)) {
    const int64_t every = random->between(1, 3);
    facts->validates = [every](int64_t epoch) { return (epoch + 1) % every == 0; };
  }
  std::string list;
  if (random->chance(60)) {
    list += fmt::format(
        "EarlyStopping(monitor={}, patience={}, min_delta=0.01, restore_best_weights={}),", monitor,
        random->between(0, 2), random->chance(70));
  }
  if (random->chance(50)) {
    list += fmt::format("ReduceLROnPlateau(monitor={}, factor=0.5, patience=1, min_delta=0.1),",
                        monitor);
  }
  if (random->chance(30)) list += "LearningRateScheduler(schedule={0: 0.2, 2: 0.05}),";
  if (random->chance(30)) list += "ModelCheckpoint(save_best_only=True, monitor=accuracy),";
  const bool ends_early = random->chance(30);
  const int64_t asks = random->chance(50) ? 1 : random->between(2, 9);
  add_toy_callbacks(list, ends_early, asks, facts);
}

}  // namespace

Setting make_setting(Random* random) {
  Setting setting;
  ClusterFacts& facts = setting.facts;
  facts.job = "{}";
  facts.recipe_sha256 = "recipe";
  facts.numerics = "toy";
  facts.metric_sums = kToySums;
  facts.data_digest = "data";
  facts.version = "1";
  facts.partitions = 1 << random->between(0, 3);
  facts.batch_size = facts.partitions + random->between(0, 2 * facts.partitions + 3);
  const int64_t whole = random->between(1, 6);
  const int64_t rest =
      random->chance(30) ? 0
                         : random->between(1, facts.batch_size - 1 > 0 ? facts.batch_size - 1 : 1);
  facts.train_rows = whole * facts.batch_size + rest;
  facts.validation_rows = random->chance(30) ? 0 : random->between(1, 3 * facts.batch_size);
  facts.epochs = random->between(1, 4);
  facts.steps_of_epoch = random->chance(70) ? 0 : random->between(1, 2 * whole);
  facts.first_batch = random->chance(80) ? 0 : random->between(0, whole - 1);
  facts.slices = static_cast<int>(random->between(1, 4));
  facts.start_nodes = static_cast<int>(random->between(1, 4));
  facts.min_nodes = static_cast<int>(random->between(1, facts.start_nodes));
  facts.max_nodes = static_cast<int>(random->between(facts.start_nodes, 6));
  facts.lease_ms = static_cast<int>(random->between(1000, 5000));
  facts.checkpoint_every_ms = random->chance(50) ? 0 : random->between(200, 3000);
  facts.checkpoint_every_steps = random->chance(50) ? 0 : random->between(1, 5);
  facts.verify_every = random->chance(15) ? 0 : random->chance(80) ? 1 : random->between(2, 4);
  if (random->chance(50)) add_callbacks(random, &facts);
  setting.slots = static_cast<int>(random->between(facts.start_nodes, facts.max_nodes));
  setting.compute_us = random->between(5, 400) * kMs;
  setting.message_us = random->chance(20) ? random->between(2, 20) * kMs : 1 * kMs;
  setting.late_percent = random->chance(40) ? static_cast<int>(random->between(1, 30)) : 0;
  setting.disk_us = random->between(1, 10) * kMs;
  setting.faults = make_faults(random);
  if (facts.verify_every == 0) setting.faults.flips = false;
  return setting;
}

}  // namespace lockstep::sim
