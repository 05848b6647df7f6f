#include "tests/sim/faults.h"

#include "tests/sim/head.h"
#include "tests/sim/network.h"
#include "tests/sim/sim_node.h"

namespace lockstep::sim {

void Faults::begin() {
  const FaultPlan& plan = world_.setting.faults;
  if (!plan.any()) return;
  next();
  world_.after(plan.until_us, [this] { end(); });
}

void Faults::next() {
  const FaultPlan& plan = world_.setting.faults;
  world_.after(world_.random.between(1, 2 * plan.mean_gap_us), [this, &plan] {
    if (world_.now_us() >= plan.until_us) return;
    strike();
    next();
  });
}

void Faults::end() {
  world_.trace("the faults are over");
  world_.network->heal();
  for (const auto& node : world_.live_nodes()) node->cut_control(0);
  if (!world_.head->alive()) world_.head->start(true);
}

void Faults::strike() {
  const FaultPlan& plan = world_.setting.faults;
  std::vector<void (Faults::*)()> kinds;
  // While a state is wrong nobody may die before the others have seen it: nothing could tell.
  const bool calm = world_.flipped;
  if (plan.one_kill) {
    if (!killed_once_) kill_node();
    return;
  }
  if (plan.kills && !calm) kinds.insert(kinds.end(), 2, &Faults::kill_node);
  if (plan.freezes && !calm) kinds.push_back(&Faults::freeze_node);
  if (plan.links && !calm) kinds.push_back(&Faults::cut_link);
  if (plan.silences && !calm) kinds.push_back(&Faults::silence_link);
  if (plan.connections && !calm) kinds.push_back(&Faults::lose_connection);
  if (plan.leaves && !calm) kinds.push_back(&Faults::leave);
  if (plan.interrupts && !calm) kinds.push_back(&Faults::interrupt);
  if (plan.slow_disk) kinds.push_back(&Faults::slow_disk);
  if (plan.flips) kinds.push_back(&Faults::flip);
  if (plan.coordinator_kills || (plan.kills_of_all && !calm)) {
    const bool all =
        plan.kills_of_all && !calm && (!plan.coordinator_kills || world_.random.chance(40));
    kinds.push_back(nullptr);
    const auto chosen = kinds[static_cast<size_t>(
        world_.random.between(0, static_cast<int64_t>(kinds.size()) - 1))];
    if (chosen == nullptr) {
      kill_coordinator(all);
    } else {
      (this->*chosen)();
    }
    return;
  }
  if (kinds.empty()) return;
  (this->*kinds[static_cast<size_t>(
              world_.random.between(0, static_cast<int64_t>(kinds.size()) - 1))])();
}

std::shared_ptr<SimNode> Faults::any_node() {
  const auto nodes = world_.live_nodes();
  if (nodes.empty()) return nullptr;
  return nodes[static_cast<size_t>(
      world_.random.between(0, static_cast<int64_t>(nodes.size()) - 1))];
}

void Faults::kill_node() {
  const auto node = any_node();
  if (!node || node->session() == 0) return;
  if (world_.setting.faults.one_kill && !node->has_state()) return;
  killed_once_ = true;
  world_.count("fault: node killed");
  if (world_.random.chance(10)) {
    node->fail_itself();
  } else {
    node->die();
  }
}

void Faults::freeze_node() {
  const auto node = any_node();
  if (!node || node->frozen()) return;
  const bool is_long = world_.random.chance(50);
  const int64_t lease_us = world_.setting.facts.lease_ms * kMs;
  world_.count(is_long ? "fault: node frozen beyond its lease" : "fault: node frozen briefly");
  node->freeze(is_long ? lease_us + world_.random.between(0, 2 * kSecond)
                       : world_.random.between(1, lease_us / 2));
}

void Faults::kill_coordinator(bool all) {
  if (!world_.head->alive()) return;
  world_.count(all ? "fault: everything killed" : "fault: coordinator killed");
  world_.head->kill();
  if (all) {
    for (const auto& node : world_.live_nodes()) node->die();
  }
  const bool may_return = !all || world_.random.chance(50);
  world_.after(world_.random.between(10, 3000) * kMs, [this, may_return] {
    if (!world_.head->alive()) world_.head->start(may_return);
  });
}

void Faults::interrupt() {
  if (!world_.head->serving()) return;
  world_.count("fault: interrupted");
  world_.head->interrupt(world_.random.between(50, 3000) * kMs);
}

void Faults::cut_link() {
  const auto a = any_node();
  const auto b = any_node();
  if (!a || !b || a == b) return;
  const bool is_long = world_.random.chance(40);
  world_.count(is_long ? "fault: link cut for long" : "fault: link broken briefly");
  const int64_t for_us =
      is_long ? world_.random.between(2, 6) * kSecond : world_.random.between(0, 1500) * kMs;
  world_.trace("the link {} {} breaks for {}", a->name(), b->name(), for_us);
  world_.network->cut(a->session(), b->session(), world_.now_us() + for_us);
}

void Faults::silence_link() {
  const auto a = any_node();
  const auto b = any_node();
  if (!a || !b || a == b) return;
  world_.count("fault: one-way silence");
  const int64_t for_us = world_.random.between(100, 4000) * kMs;
  world_.trace("{} hears nothing of {} for {}", b->name(), a->name(), for_us);
  world_.network->silence(a->session(), b->session(), world_.now_us() + for_us);
}

void Faults::lose_connection() {
  const auto node = any_node();
  if (!node || node->session() == 0) return;
  world_.count("fault: connection to the coordinator lost");
  if (world_.random.chance(40)) {
    node->cut_control(world_.now_us() + world_.random.between(10, 2500) * kMs);
  }
  world_.trace("{} loses its connection", node->name());
  node->control_broken();
  if (world_.random.chance(70)) world_.head->connection_lost(node->session());
}

void Faults::leave() {
  const auto node = any_node();
  if (!node || node->machine() == nullptr || node->leaving()) return;
  world_.count("fault: node asks to leave");
  node->ask_to_leave();
}

void Faults::slow_disk() {
  world_.count("fault: slow disk");
  const int64_t usual = world_.setting.disk_us;
  if (usual > 50 * kMs) return;
  world_.setting.disk_us = world_.random.between(20, 100) * kMs;
  world_.after(world_.random.between(100, 2000) * kMs,
               [this, usual] { world_.setting.disk_us = usual; });
}

// Only where somebody can see it: two members that hold a state, all well and in one view.
void Faults::flip() {
  if (world_.flipped || world_.flips >= 2) return;
  const Coordinator* machine = world_.head->machine();
  const bool under_way = machine != nullptr && (machine->phase() == Coordinator::Phase::training ||
                                                machine->phase() == Coordinator::Phase::finishing);
  if (!under_way) return;
  std::vector<std::shared_ptr<SimNode>> holders;
  for (const Member& member : machine->view().members) {
    const auto node = world_.node_of(member.session);
    const bool well = node && !node->frozen() && !node->leaving() && node->has_state() &&
                      node->machine()->view()->number == machine->view().number;
    if (!well) return;
    holders.push_back(node);
  }
  if (holders.size() < 2) return;
  const auto liar = holders[static_cast<size_t>(
      world_.random.between(0, static_cast<int64_t>(holders.size()) - 1))];
  world_.count("fault: bit flipped");
  world_.flipped = true;
  world_.flip_era = machine->view().era;
  ++world_.flips;
  liar->flip_bit();
}

}  // namespace lockstep::sim
