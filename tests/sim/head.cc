#include "tests/sim/head.h"

#include "host/core/digest.h"
#include "host/core/planted.h"
#include "tests/sim/sim_node.h"

namespace lockstep::sim {
namespace {

constexpr const char* kInterrupted = "ended by Ctrl-C";

}  // namespace

void Head::start(bool may_return) {
  life_ = ++lives_;
  serving_ = false;
  world_.trace("the coordinator starts");
  world_.after(world_.random.between(1, 10) * world_.setting.disk_us,
               [this, may_return, life = life_] {
                 if (life_ == life) recover(may_return);
               });
}

void Head::kill() {
  world_.trace("the coordinator dies");
  life_ = 0;
  serving_ = false;
  coordinator_.reset();
  interrupted_at_.reset();
  actions_.clear();
  outboxes_.clear();
  busy_ = false;
  // What was written and not synced may be there, in part, or not: a part is cut away.
  Store& store = *world_.store;
  if (store.pending && world_.random.chance(40)) {
    store.log.push_back(*store.pending);
    world_.count("unsynced records that survived");
  } else if (store.pending) {
    world_.count("unsynced records lost");
  }
  store.pending.reset();
  for (const auto& node : world_.live_nodes()) {
    node->post(world_.random.between(1, 20) * kMs, [node] { node->control_broken(); });
  }
}

void Head::interrupt(int64_t patience_us) {
  if (interrupted_at_) return;
  world_.trace("interrupted at step {}", coordinator_->steps_done());
  // Outside training there is nothing to wait for: what is kept is all that there is.
  const bool trains = coordinator_->phase() == Coordinator::Phase::training;
  interrupted_at_ = trains ? coordinator_->steps_done() : 0;
  CoordinatorActions actions;
  coordinator_->interrupt(kInterrupted, &actions);
  world_.after(patience_us, [this, life = life_] {
    if (life_ != life) return;
    world_.count("interrupts that waited in vain");
    interrupted_at_ = 0;
    end_interrupted();
  });
  act(std::move(actions));
}

// All processes are gone; the job is begun again later.
void Head::end_interrupted() {
  int64_t kept = 0;
  for (const Store::Entry& entry : world_.store->log) {
    const auto record = decode_record(entry.body);
    const auto* checkpoint = std::get_if<CheckpointRecord>(&*record);
    if (checkpoint != nullptr) kept = std::max(kept, checkpoint->state.step);
  }
  if (kept + 1 < *interrupted_at_) {
    world_.fail(fmt::format("interrupted at step {}, and the newest state is of step {}",
                            *interrupted_at_, kept));
  }
  kill();
  for (const auto& node : world_.live_nodes()) node->die();
  world_.after(world_.random.between(10, 3000) * kMs, [this] {
    if (!alive()) start(false);
  });
}

void Head::recover(bool may_return) {
  std::vector<JobRecord> records;
  int64_t term = 0;
  for (const Store::Entry& entry : world_.store->log) {
    const Result<JobRecord> record = decode_record(entry.body);
    if (!record.ok() || encode_record(*record) != entry.body) {
      world_.fail("a record does not come back from the log as it was: " + entry.body);
      return;
    }
    term = std::max(term, entry.term);
    records.push_back(*record);
  }
  const int64_t per_epoch = world_.setting.facts.steps_per_epoch();
  const RecoveredJob job = recover_job(records, per_epoch);
  for (const CheckpointRecord& checkpoint : job.checkpoints) {
    const bool is_newest = checkpoint == job.checkpoints.back();
    if (!is_newest && !is_kept(checkpoint.state.step, job.epochs, per_epoch)) continue;
    const bool there = world_.store->objects.contains(checkpoint.state.object) &&
                       world_.store->objects.contains(checkpoint.manifest);
    if (!there) world_.fail("a CHECKPOINT record without its object");
    world_.store->durable_step = std::max(world_.store->durable_step, checkpoint.state.step);
  }
  if ((job.view ? job.view->number : 0) < world_.store->promised_view) {
    world_.fail("a view that members have is not in the log");
  }
  if (job.ended) {
    world_.job_completed(*final_state(job.epochs, job.checkpoints, per_epoch));
    return;
  }
  term_ = term + 1;
  if (term_ <= served_term_) world_.fail("a term comes again");
  world_.sample_ledger_restart(job.checkpoints.empty() ? 0 : job.checkpoints.back().state.step);
  coordinator_.emplace(world_.setting.facts, term_, job, may_return, world_.now_ms());
  forgotten_view_ = may_return || !job.view ? -1 : job.view->number;
  world_.trace("the coordinator has term {}, view {}, {} epochs, {} checkpoints", term_,
               job.view ? job.view->number : 0, job.epochs.size(), job.checkpoints.size());
  const auto serve = [this] {
    serving_ = true;
    served_term_ = term_;
    serving_since_us_ = world_.now_us();
    world_.count("terms");
    world_.after(50 * kMs, [this, life = life_] {
      if (life_ == life) tick();
    });
  };
  const auto begin_term = [this, serve] { append(TermRecord{}, serve); };
  if (records.empty()) {
    append(RunRecord{world_.setting.facts.recipe_sha256}, begin_term);
  } else {
    begin_term();
  }
}

void Head::tick() {
  CoordinatorActions actions;
  coordinator_->tick(world_.now_ms(), &actions);
  act(std::move(actions));
  if (!coordinator_) return;
  const int64_t patience_us = world_.setting.facts.lease_ms * kMs + 3 * kSecond;
  for (const Member& member : coordinator_->view().members) {
    if (coordinator_->view().number == forgotten_view_) break;
    const auto dead = world_.dead_since_us.find(member.session);
    if (dead == world_.dead_since_us.end()) continue;
    if (world_.known_dead.contains(member.session)) continue;
    if (world_.now_us() - std::max(dead->second, serving_since_us_) > patience_us) {
      world_.fail(fmt::format("session {} is dead and still a member", member.session));
    }
  }
  world_.after(50 * kMs, [this, life = life_] {
    if (life_ == life) tick();
  });
}

// One append, then a sync, before the next.
void Head::append(const JobRecord& record, std::function<void()> done) {
  busy_ = true;
  const Store::Entry entry{term_, encode_record(record)};
  world_.store->pending = entry;
  world_.trace("append {}", describe_record(record));
  world_.after(world_.random.between(1, 2 * world_.setting.disk_us),
               [this, entry, done, life = life_] {
                 if (life_ != life) return;
                 world_.store->log.push_back(entry);
                 world_.store->pending.reset();
                 busy_ = false;
                 done();
                 drain();
               });
  if (planted(Bug::reply_before_sync)) busy_ = false;
}

void Head::act(CoordinatorActions actions) {
  for (auto& action : actions) actions_.push_back(std::move(action));
  if (actions_.size() > 2000) world_.fail("the coordinator's actions grow without end");
  drain();
}

void Head::drain() {
  const int64_t life = life_;
  while (life != 0 && life == life_ && !busy_ && !actions_.empty() && !world_.over()) {
    // A second record waits for the first, bug or not.
    if (std::holds_alternative<AppendRecord>(actions_.front()) && world_.store->pending) return;
    const CoordinatorAction action = std::move(actions_.front());
    actions_.pop_front();
    perform(action);
  }
}

void Head::perform(const CoordinatorAction& action) {
  if (const auto* record = std::get_if<AppendRecord>(&action)) {
    if (const auto* made = std::get_if<ViewRecord>(&record->record)) check_view(made->view);
    append(record->record, [] {});
  } else if (const auto* sent = std::get_if<SendEvent>(&action)) {
    outboxes_[sent->session].events.push_back(sent->event);
    if (outboxes_[sent->session].events.size() > 200) world_.fail("an outbox grows without end");
    deliver(sent->session);
  } else if (const auto* made = std::get_if<ViewMade>(&action)) {
    world_.count("views");
    world_.count(made->view.carries ? "views that carry a step" : "views that carry nothing");
    if (made->view.donor >= 0) {
      for (const Member& member : made->view.members) {
        if (member.step < 0) world_.count("members that get the state");
        if (member.step == made->view.first_step - 1) world_.count("members one step behind");
      }
    }
  } else if (const auto* restored = std::get_if<Restored>(&action)) {
    world_.count("restores");
    world_.trace("restored to step {}: {}", restored->step, restored->why);
    const bool corruption = restored->why.find("corruption") != std::string::npos;
    if (corruption) {
      world_.count("restores from corruption");
      world_.flipped = false;
    }
    world_.sample_ledger_restart(restored->step);
  } else if (const auto* consumed = std::get_if<SamplesConsumed>(&action)) {
    world_.samples(*consumed);
  } else if (const auto* checkpoint = std::get_if<CommitCheckpoint>(&action)) {
    commit(*checkpoint);
  } else if (const auto* left = std::get_if<NodeLeft>(&action)) {
    world_.trace("session {} is out: {}", left->session, left->why);
    world_.count("members lost or left");
    world_.member_lost(left->why);
    world_.known_dead.insert(left->session);
    if (left->why == "it gave no sign of life") world_.count("leases that ended");
  } else if (const auto* recovered = std::get_if<Recovered>(&action)) {
    world_.count("recoveries");
    world_.count("partitions dealt again", recovered->partitions);
  } else if (const auto* completed = std::get_if<JobCompleted>(&action)) {
    world_.job_completed(completed->state);
  } else if (const auto* failed = std::get_if<JobFailed>(&action)) {
    if (failed->reason == kInterrupted) {
      world_.count("interrupts that ended the job");
      end_interrupted();
      return;
    }
    world_.job_failed(failed->reason);
  }
}

// First the object, then the record.
void Head::commit(const CommitCheckpoint& checkpoint) {
  const int64_t step = checkpoint.state.step;
  const std::string bytes = world_.store->objects.contains(checkpoint.state.object)
                                ? world_.store->objects[checkpoint.state.object]
                                : "";
  if (checkpoint.samples_consumed != world_.rows_before(step)) {
    world_.fail(
        fmt::format("checkpoint of step {} counts {} samples", step, checkpoint.samples_consumed));
  }
  if (bytes.empty() || xxh3(bytes.data(), bytes.size()) != (checkpoint.state.digest)) {
    if (bytes.empty() || (xxh3(bytes.data(), bytes.size()) | 1) != checkpoint.state.digest) {
      world_.fail("a checkpoint's bytes are not those of its digest");
    }
  }
  if (checkpoint.state.digest != world_.reference.digests[static_cast<size_t>(step)]) {
    world_.fail(fmt::format("the checkpoint of step {} is wrong", step));
  }
  const std::string manifest = fmt::format("manifest{}", step);
  drop_checkpoints(step);
  const CheckpointRecord record{checkpoint.state, manifest, checkpoint.samples_consumed};
  const auto log_it = [this, record] {
    append(record, [this, record] {
      world_.count("checkpoints");
      CoordinatorActions actions;
      world_.store->durable_step = record.state.step;
      coordinator_->checkpoint_durable(record, &actions);
      // They stand in front of what was waiting: they follow from what came before it.
      if (world_.random.chance(30)) compact();
      act(std::move(actions));
    });
  };
  const auto write_object = [this, manifest] { world_.store->objects[manifest] = "manifest"; };
  busy_ = true;
  if (planted(Bug::checkpoint_before_object)) {
    log_it();
    world_.after(8 * world_.setting.disk_us, [this, write_object, life = life_] {
      if (life_ == life) write_object();
    });
    return;
  }
  world_.after(world_.random.between(1, 2 * world_.setting.disk_us),
               [this, log_it, write_object, life = life_] {
                 if (life_ != life) return;
                 write_object();
                 log_it();
               });
}

// What no decision keeps and is not among the newest goes, as in a journal.
void Head::drop_checkpoints(int64_t newest) {
  std::vector<JobRecord> records;
  for (const Store::Entry& entry : world_.store->log) records.push_back(*decode_record(entry.body));
  const int64_t per_epoch = world_.setting.facts.steps_per_epoch();
  const RecoveredJob job = recover_job(records, per_epoch);
  for (size_t i = 0; i + 2 < job.checkpoints.size(); ++i) {
    const StateRef& state = job.checkpoints[i].state;
    if (state.step == newest || is_kept(state.step, job.epochs, per_epoch)) continue;
    if (world_.store->objects.erase(state.object) > 0) world_.count("checkpoints that went");
  }
}

// The log is written anew with the fewest records; the same job must come back from it.
void Head::compact() {
  std::vector<JobRecord> records;
  for (const Store::Entry& entry : world_.store->log) records.push_back(*decode_record(entry.body));
  const int64_t per_epoch = world_.setting.facts.steps_per_epoch();
  const RecoveredJob before = recover_job(records, per_epoch);
  const RecoveredJob after = recover_job(compacted(before), per_epoch);
  const bool same = before.recipe_sha256 == after.recipe_sha256 && before.view == after.view &&
                    before.epochs == after.epochs && before.checkpoints == after.checkpoints &&
                    before.ended == after.ended;
  if (!same) world_.fail("a compacted log brings back another job");
  world_.store->log.clear();
  for (const JobRecord& record : compacted(before)) {
    world_.store->log.push_back({term_, encode_record(record)});
  }
  world_.count("compactions");
}

void Head::upload(SessionId session, int64_t step, std::string bytes,
                  std::function<void(Status)> done) {
  world_.after(world_.random.between(1, 4 * world_.setting.disk_us),
               [this, session, step, bytes = std::move(bytes), done, life = life_] {
                 if (life_ != life) return;
                 const uint64_t digest = xxh3(bytes.data(), bytes.size()) | 1;
                 const std::string object = "state" + hex64(digest);
                 world_.store->objects[object] = bytes;
                 CoordinatorActions actions;
                 const Status status = coordinator_->snapshot_stored(
                     session, {step, object, digest, static_cast<int64_t>(bytes.size())}, &actions);
                 act(std::move(actions));
                 done(status);
               });
}

void Head::check_view(const View& view) {
  const int partitions = world_.setting.facts.partitions;
  std::vector<int> owners(static_cast<size_t>(partitions));
  std::vector<int> carriers(static_cast<size_t>(partitions));
  SessionId before = 0;
  for (const Member& member : view.members) {
    if (member.session <= before) world_.fail("members are not in the order of their sessions");
    before = member.session;
    for (int p = member.partitions.begin; p < member.partitions.end; ++p) {
      ++owners[static_cast<size_t>(p)];
    }
    for (const PartitionRange range : member.carried) {
      for (int p = range.begin; p < range.end; ++p) ++carriers[static_cast<size_t>(p)];
    }
  }
  for (int p = 0; p < partitions; ++p) {
    if (owners[static_cast<size_t>(p)] != 1) world_.fail("a partition without one owner");
    if (view.carries && carriers[static_cast<size_t>(p)] != 1) {
      world_.fail("a carried partition without one owner");
    }
  }
  if (view.slice_owners.size() != static_cast<size_t>(world_.setting.facts.slices)) {
    world_.fail("a slice without an owner");
  }
  for (const int owner : view.slice_owners) {
    if (owner < 0 || owner >= static_cast<int>(view.members.size()) ||
        view.members[static_cast<size_t>(owner)].partitions.empty()) {
      world_.fail("a slice of an owner that does no work");
    }
  }
  if (view.number <= world_.store->promised_view) world_.fail("view numbers do not grow");
}

}  // namespace lockstep::sim
