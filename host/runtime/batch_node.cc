#include "host/runtime/batch_node.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "host/core/digest.h"
#include "host/nn/model_config.h"
#include "host/runtime/clock.h"

namespace lockstep {
namespace {

constexpr int kLongestAwayMs = 10'000;  // a coordinator that has ended keeps nothing to go on with
constexpr int kRetryCallMs = 100;
constexpr int64_t kCanaryRows = 32;
constexpr int kPatienceMs = 1'000;  // of a node that leaves: nobody waits for what it has

}  // namespace

BatchNode::BatchNode(const NodeOptions& options, Network& network, ControlClient& control,
                     const Welcome& welcome)
    : options_(options), network_(network), control_(control), welcome_(welcome) {}

Status BatchNode::run() {
  Status status = prepare();
  if (status.ok()) status = join();
  if (status.ok()) status = work();
  if (!status.ok() && !stop_) {
    static_cast<void>(control_.report_fault({welcome_.session, 0, 0, status.error().message}));
  }
  static_cast<void>(control_.leave(welcome_.session));
  std::unique_ptr<CoordinatorLink> link;
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
    link = std::move(link_);
  }
  return status;
}

void BatchNode::stop(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  over_ = true;
  if (link_) link_->ask_to_leave(reason, kPatienceMs);
}

Status BatchNode::prepare() {
  LOCKSTEP_ASSIGN(task_, batch_task_from_json(nlohmann::json::parse(welcome_.job, nullptr, false)));
  LOCKSTEP_ASSIGN(dataset_, load_dataset(options_.data.empty() ? task_.data : options_.data,
                                         Split::test, task_.data_options));
  if (dataset_.digest != task_.data_digest) return {};  // join() is refused
  LOCKSTEP_ASSIGN(const auto model, model_from_config(task_.model_config));
  LOCKSTEP_ASSIGN(const auto weights, fetch_weights());
  LOCKSTEP_ASSIGN(canary_, canary(*model, weights));
  LOCKSTEP_ASSIGN(worker_,
                  make_batch_worker(task_, *model, dataset_, weights, devices(), [&](int index) {
                    return options_.make_device(task_.numerics, index);
                  }));
  return {};
}

int BatchNode::devices() const {
  return options_.devices > 0 ? options_.devices : options_.available_devices(task_.numerics);
}

Result<std::vector<float>> BatchNode::fetch_weights() {
  std::string bytes;
  while (true) {
    LOCKSTEP_ASSIGN(const std::string part,
                    control_.fetch(welcome_.session, task_.weights_sha256, std::ssize(bytes)));
    if (part.empty()) break;
    bytes += part;
  }
  if (sha256_hex(bytes) != task_.weights_sha256 || bytes.size() % sizeof(float) != 0) {
    return Error{"the weights that the coordinator sent are not those of the work"};
  }
  std::vector<float> weights(bytes.size() / sizeof(float));
  if (!weights.empty()) std::memcpy(weights.data(), bytes.data(), bytes.size());
  return weights;
}

// What a small first batch gives here.
Result<std::vector<OpDigest>> BatchNode::canary(const Model& model,
                                                const std::vector<float>& weights) const {
  BatchTask task = task_;
  task.batch_size = std::min(task.batch_size, kCanaryRows);
  if (task.measured) task.measured->batch_size = task.batch_size;
  LOCKSTEP_ASSIGN(const auto worker,
                  make_batch_worker(task, model, dataset_, weights, 1, [&](int index) {
                    return options_.make_device(task_.numerics, index);
                  }));
  std::vector<OpDigest> digests;
  LOCKSTEP_RETURN_IF_ERROR(worker->compute({0, 1}, [&](int array, std::string_view bytes) {
    digests.push_back({fmt::format("results {} of the first rows", array),
                       static_cast<int64_t>(xxh3(bytes.data(), bytes.size()))});
    return Status{};
  }));
  return digests;
}

Status BatchNode::join() {
  JoinRequest request;
  request.session = welcome_.session;
  request.devices = devices();
  request.numerics = task_.numerics;
  request.data_digest = dataset_.digest;
  request.canary = canary_;
  if (worker_) request.device = worker_->device_description();
  LOCKSTEP_RETURN_IF_ERROR(control_.join(request));
  CoordinatorLinkOptions link;
  link.coordinator = options_.coordinator;
  link.session = welcome_.session;
  link.term = welcome_.term;
  link.away_ms = std::min(options_.coordinator_away_ms, kLongestAwayMs);
  link.arrived = [] {};
  const std::lock_guard lock(mutex_);
  if (over_) return Error{"stopped"};
  link_ = std::make_unique<CoordinatorLink>(network_, std::move(link));
  return {};
}

Status BatchNode::work() {
  options_.gauges->view = 1;
  WorkRequest request{welcome_.session, {}};
  while (true) {
    WorkReply reply;
    LOCKSTEP_RETURN_IF_ERROR(until_answered([&]() -> Status {
      LOCKSTEP_ASSIGN(reply, control_.next_batches(request));
      return {};
    }));
    if (stop_) return stop_->completed ? Status{} : Status(Error{stop_->reason, stop_->kind});
    request.done = reply.batches;
    if (reply.over) return {};
    if (reply.batches.empty()) continue;
    LOCKSTEP_RETURN_IF_ERROR(compute(reply.batches));
  }
}

Status BatchNode::compute(const BatchRange& batches) {
  const std::vector<ResultArray>& arrays = worker_->arrays();
  std::vector<ResultPart> parts;
  for (size_t i = 0; i < arrays.size(); ++i) {
    parts.push_back({welcome_.session, static_cast<int>(i), arrays[i].bytes_of(batches).begin, ""});
  }
  const auto take = [&](int array, std::string_view bytes) -> Status {
    ResultPart& part = parts[static_cast<size_t>(array)];
    if (std::ssize(part.bytes) + std::ssize(bytes) > kFetchBytes) {
      LOCKSTEP_RETURN_IF_ERROR(send(&part));
    }
    for (; std::ssize(bytes) > kFetchBytes; bytes.remove_prefix(kFetchBytes)) {
      part.bytes = bytes.substr(0, kFetchBytes);
      LOCKSTEP_RETURN_IF_ERROR(send(&part));
    }
    part.bytes += bytes;
    if (look_around()) return Error{stop_->reason, stop_->kind};
    return {};
  };
  const Status computed = worker_->compute(batches, take);
  if (stop_ && stop_->completed) return {};  // work() ends with it
  LOCKSTEP_RETURN_IF_ERROR(computed);
  for (ResultPart& part : parts) LOCKSTEP_RETURN_IF_ERROR(send(&part));
  options_.gauges->step += batches.size();
  return {};
}

// What it holds; it then goes on behind that.
Status BatchNode::send(ResultPart* part) {
  if (part->bytes.empty()) return {};
  LOCKSTEP_RETURN_IF_ERROR(until_answered([&] { return control_.deliver(*part); }));
  part->offset += std::ssize(part->bytes);
  part->bytes.clear();
  return {};
}

Status BatchNode::until_answered(const std::function<Status()>& call) {
  const int64_t begin_ms = monotonic_ms();
  while (true) {
    const Status status = call();
    if (look_around()) return {};
    const bool may_pass = !status.ok() && status.error().kind == ErrorKind::failed;
    if (!may_pass || monotonic_ms() - begin_ms > kLongestAwayMs) return status;
    link_->wait(kRetryCallMs);
  }
}

const std::optional<StopEvent>& BatchNode::look_around() {
  for (const NodeEvent& event : link_->take()) {
    if (stop_) break;
    if (const auto* stop = std::get_if<StopEvent>(&event)) stop_ = *stop;
  }
  return stop_;
}

}  // namespace lockstep
