// Forward and backward passes, and how gradients leave the devices meanwhile.
#include <algorithm>

#include "host/core/check.h"
#include "host/runtime/replica.h"

namespace lockstep {

Result<Program*> Replica::prepare_compute(int64_t step, int index, PartitionRange range,
                                          const HostBatch& batch) {
  if (linked()) LOCKSTEP_RETURN_IF_ERROR(prepare_links(index));
  const PartitionGroup group = group_of(job_.rows_of_step(step), range);
  if (group.total_rows() == 0) return static_cast<Program*>(nullptr);
  auto program = programs_[static_cast<size_t>(index)]->program_for(group);
  if (!program.ok()) return explain_room(program.error(), index, range, batch);
  return program;
}

Status Replica::compute(int64_t step, const std::vector<PartitionRange>& ranges,
                        const std::vector<HostBatch>& batches,
                        const Program::ReadyCallback& ready) {
  LOCKSTEP_CHECK(step == state_.step);
  std::vector<Status> statuses(ranges.size()), given(ranges.size());
  std::vector<Program*> programs(ranges.size());
  const auto prepare = [&](int index) {
    auto program = prepare_compute(step, index, ranges[index], batches[index]);
    if (program.ok()) {
      programs[index] = *program;
    } else {
      statuses[index] = program.error();
    }
  };
  if (linked()) {  // nobody begins to wait for one who can't begin
    team_->run(prepare);
    LOCKSTEP_RETURN_IF_ERROR(first_error(statuses));
  }
  team_->run([&](int index) {
    if (!linked()) prepare(index);
    if (!statuses[index].ok()) return;
    RunContext context;
    context.batch = &batches[index];
    context.seed = job_.seed;
    context.epoch = static_cast<uint32_t>(job_.place_of_step(step).pass);
    context.loss_scale = 1.0f / static_cast<float>(job_.rows_of_step(step));
    statuses[index] = compute_on(index, programs[index], context, ready, &given[index]);
    if (!statuses[index].ok()) {
      statuses[index] = explain_room(statuses[index].error(), index, ranges[index], batches[index]);
    }
  });
  LOCKSTEP_RETURN_IF_ERROR(first_error(statuses));  // the others may have waited for this one
  return first_error(given);
}

Status Replica::compute_on(int index, Program* program, RunContext context,
                           const Program::ReadyCallback& ready, Status* given) {
  std::vector<float*> roots;
  for (const RoundRoot& root : round_roots_[static_cast<size_t>(index)]) {
    roots.push_back(root.memory.device);
  }
  context.weights = weights_of(index);
  context.roots = roots;
  if (!shares_memory()) return compute_apart(index, program, context, ready, given);
  return program == nullptr ? Status{} : program->run(context, ready);
}

Status Replica::compute_apart(int index, Program* program, const RunContext& context,
                              const Program::ReadyCallback& ready, Status* given) {
  const bool is_idle =
      linked() ? round_on_host_ && round_roots_.back().empty() : program == nullptr;
  if (is_idle) return {};
  if (!linked() && !round_on_host_) return program->run(context, {});
  Device& device = team_->device(index);
  size_t number = 0;
  const auto give = [&](int64_t, int64_t) {
    const FlatRange& bucket = buckets_[number++];
    if (given->ok()) *given = give_bucket(index, bucket);
  };
  Status ran;
  if (program != nullptr) {
    ran = program->run(context, give);
  } else {  // the others wait for it as for everybody
    while (ran.ok() && number < buckets_.size()) {
      ran = device.aside([&]() -> Status {
        give(0, 0);
        return {};
      });
    }
  }
  for (size_t i = 0; i < buckets_.size() && ran.ok() && given->ok() && round_on_host_; ++i) {
    const FlatRange mine = linked() ? share_of(buckets_[i], index) : buckets_[i];
    *given = await_bucket(index, static_cast<int>(i));
    if (given->ok() && !mine.empty()) ready(mine.begin, std::min(mine.end, training_.flat_size));
  }
  const Status rejoined = device.rejoin();
  return ran.ok() ? rejoined : ran;
}

// In an aside, where the bucket's range of all roots is final.
Status Replica::give_bucket(int index, const FlatRange& bucket) {
  if (bucket.empty()) return {};
  if (links_add()) return reduce_by_link(index, bucket);
  if (linked()) return reduce_share(index, bucket);
  const int64_t count = std::min(bucket.end, training_.flat_size) - bucket.begin;
  for (const RoundRoot& root : round_roots_[static_cast<size_t>(index)]) {
    LOCKSTEP_RETURN_IF_ERROR(team_->device(index).start_copy_to_host(
        root.memory.device + bucket.begin, count, root.memory.host + bucket.begin));
  }
  return {};
}

Status Replica::await_bucket(int index, int number) {
  return linked() ? team_->link(index)->finish_aside(number)
                  : team_->device(index).finish_aside(number);
}

}  // namespace lockstep
