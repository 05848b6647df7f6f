#include "host/cluster/records.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "host/core/digest.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

Json ranges_json(const std::vector<PartitionRange>& ranges) {
  Json json = Json::array();
  for (const PartitionRange range : ranges) json.push_back({range.begin, range.end});
  return json;
}

PartitionRange range_from(const Json& json) {
  return {json.at(0).get<int>(), json.at(1).get<int>()};
}

// As text: JSON has no infinity and no NaN.
Json number_json(double value) { return fmt::format("{}", value); }
double number_from(const Json& json) {
  return std::strtod(json.get<std::string>().c_str(), nullptr);
}

Json sums_json(const MetricSums& sums) {
  Json json = Json::array();
  for (const double sum : sums) json.push_back(number_json(sum));
  return json;
}

MetricSums sums_from(const Json& json) {
  MetricSums sums;
  for (const Json& sum : json) sums.push_back(number_from(sum));
  return sums;
}

// Logs held the means of two metrics once: they are their sums over one row.
EpochRecord epoch_of_before(const Json& json) {
  const auto means = [&](const std::string& prefix) -> MetricSums {
    return {number_from(json.at(prefix + "loss")), number_from(json.at(prefix + "accuracy")), 1};
  };
  const bool has_validation = json.at("has_validation");
  return {{json.at("epoch"), means(""), has_validation ? means("validation_") : MetricSums{}}, {}};
}

Json decision_json(const EpochDecision& decision) {
  Json json = {{"stop", decision.stop}};
  if (decision.learning_rate) json["learning_rate"] = number_json(*decision.learning_rate);
  if (!decision.keep.empty()) json["keep"] = decision.keep;
  if (decision.best) json["best"] = *decision.best;
  if (!decision.notes.empty()) json["notes"] = decision.notes;
  return json;
}

EpochDecision decision_from(const Json& json) {
  EpochDecision decision;
  decision.stop = json.at("stop");
  if (json.contains("learning_rate")) decision.learning_rate = number_from(json["learning_rate"]);
  decision.keep = json.value("keep", decision.keep);
  if (json.contains("best")) decision.best = json["best"].get<int64_t>();
  decision.notes = json.value("notes", decision.notes);
  return decision;
}

Json state_json(const StateRef& state) {
  return {{"step", state.step},
          {"object", state.object},
          {"digest", hex64(state.digest)},
          {"bytes", state.bytes}};
}

StateRef state_from(const Json& json) {
  return {json.at("step").get<int64_t>(), json.at("object").get<std::string>(),
          std::stoull(json.at("digest").get<std::string>(), nullptr, 16),
          json.at("bytes").get<int64_t>()};
}

Json view_json(const View& view) {
  Json members = Json::array();
  for (const Member& member : view.members) {
    members.push_back({{"session", member.session},
                       {"name", member.name},
                       {"address", member.address},
                       {"partitions", {member.partitions.begin, member.partitions.end}},
                       {"carried", ranges_json(member.carried)},
                       {"step", member.step}});
  }
  Json json = {{"number", view.number},
               {"first_step", view.first_step},
               {"carries", view.carries},
               {"restores", view.restores},
               {"restore", state_json(view.restore)},
               {"donor", view.donor},
               {"era", view.era},
               {"decided_epochs", view.decided_epochs},
               {"members", members},
               {"slice_owners", view.slice_owners}};
  if (view.learning_rate) json["learning_rate"] = number_json(*view.learning_rate);
  return json;
}

View view_from(const Json& json) {
  View view;
  view.number = json.at("number");
  view.first_step = json.at("first_step");
  view.carries = json.at("carries");
  view.restores = json.at("restores");
  view.restore = state_from(json.at("restore"));
  view.donor = json.at("donor");
  view.era = json.at("era");
  view.decided_epochs = json.at("decided_epochs");
  for (const Json& member : json.at("members")) {
    std::vector<PartitionRange> carried;
    for (const Json& range : member.at("carried")) carried.push_back(range_from(range));
    view.members.push_back({member.at("session"), member.at("name"), member.at("address"),
                            range_from(member.at("partitions")), carried, member.at("step")});
  }
  view.slice_owners = json.at("slice_owners").get<std::vector<int>>();
  if (json.contains("learning_rate")) view.learning_rate = number_from(json["learning_rate"]);
  return view;
}

Json to_json(const RunRecord& record) {
  return {{"record", "RUN"}, {"recipe_sha256", record.recipe_sha256}};
}
Json to_json(const TermRecord&) { return {{"record", "TERM"}}; }
Json to_json(const ViewRecord& record) {
  return {{"record", "VIEW"}, {"view", view_json(record.view)}};
}
Json to_json(const EpochRecord& record) {
  const EpochDone& done = record.done;
  Json json = {{"record", "EPOCH"},
               {"epoch", done.epoch},
               {"sums", sums_json(done.sums)},
               {"validation", sums_json(done.validation)},
               {"decision", decision_json(record.decision)}};
  if (done.cut_at > 0) json["cut_at"] = done.cut_at;
  return json;
}
Json to_json(const CheckpointRecord& record) {
  return {{"record", "CHECKPOINT"},
          {"state", state_json(record.state)},
          {"manifest", record.manifest},
          {"samples_consumed", record.samples_consumed}};
}
Json to_json(const CanaryRecord& record) {
  Json ops = Json::array();
  for (const OpDigest& digest : record.ops) {
    ops.push_back({digest.op, hex64(static_cast<uint64_t>(digest.hash))});
  }
  return {{"record", "CANARY"}, {"version", record.version}, {"ops", ops}};
}
Json to_json(const EndRecord&) { return {{"record", "END"}}; }

CanaryRecord canary_from(const Json& json) {
  CanaryRecord record{json.at("version"), {}};
  for (const Json& op : json.at("ops")) {
    const uint64_t hash = std::stoull(op.at(1).get<std::string>(), nullptr, 16);
    record.ops.push_back({op.at(0), static_cast<int64_t>(hash)});
  }
  return record;
}

JobRecord record_from(const Json& json) {
  const std::string kind = json.at("record");
  if (kind == "RUN") return RunRecord{json.at("recipe_sha256")};
  if (kind == "TERM") return TermRecord{};
  if (kind == "VIEW") return ViewRecord{view_from(json.at("view"))};
  if (kind == "EPOCH") {
    if (!json.contains("sums")) return epoch_of_before(json);
    const EpochDone done{json.at("epoch"), sums_from(json.at("sums")),
                         sums_from(json.at("validation")), json.value("cut_at", int64_t{0})};
    // Logs said go_on once, when nothing but the number of epochs decided it.
    return EpochRecord{
        done, json.contains("decision") ? decision_from(json["decision"]) : EpochDecision{}};
  }
  if (kind == "CHECKPOINT") {
    return CheckpointRecord{state_from(json.at("state")), json.at("manifest"),
                            json.at("samples_consumed")};
  }
  if (kind == "CANARY") return canary_from(json);
  if (kind == "END") return EndRecord{};
  throw std::invalid_argument(fmt::format("a record of the unknown kind '{}'", kind));
}

}  // namespace

std::string encode_record(const JobRecord& record) {
  return std::visit([](const auto& one) { return to_json(one).dump(); }, record);
}

Result<JobRecord> decode_record(const std::string& body) {
  try {
    return record_from(Json::parse(body));
  } catch (const std::exception& error) {
    return Error{fmt::format("a record of the log cannot be read: {}", error.what())};
  }
}

std::string describe_record(const JobRecord& record, const DescribeSums& describe_sums) {
  if (const auto* run = std::get_if<RunRecord>(&record)) {
    return fmt::format("RUN recipe {}", run->recipe_sha256.substr(0, 12));
  }
  if (const auto* made = std::get_if<ViewRecord>(&record)) {
    const View& view = made->view;
    return fmt::format("VIEW {} from step {}{}: {} member{}", view.number, view.first_step,
                       view.restores ? " (restored)" : "", view.members.size(),
                       view.members.size() == 1 ? "" : "s");
  }
  if (const auto* epoch = std::get_if<EpochRecord>(&record)) {
    std::string text = fmt::format("EPOCH {}{}", epoch->done.epoch + 1,
                                   describe_sums ? " " + describe_sums(epoch->done.sums) : "");
    for (const std::string& note : epoch->decision.notes) text += "; " + note;
    return text;
  }
  if (const auto* checkpoint = std::get_if<CheckpointRecord>(&record)) {
    return fmt::format("CHECKPOINT step {} {}", checkpoint->state.step,
                       checkpoint->manifest.substr(0, 12));
  }
  if (const auto* canary = std::get_if<CanaryRecord>(&record)) {
    return fmt::format("CANARY of {} ops, version {}", canary->ops.size(), canary->version);
  }
  return std::holds_alternative<TermRecord>(record) ? "TERM" : "END";
}

RecoveredJob recover_job(const std::vector<JobRecord>& records, int64_t steps_per_epoch) {
  RecoveredJob job;
  for (const JobRecord& record : records) {
    if (const auto* run = std::get_if<RunRecord>(&record)) job.recipe_sha256 = run->recipe_sha256;
    if (const auto* canary = std::get_if<CanaryRecord>(&record)) job.canary = *canary;
    if (const auto* made = std::get_if<ViewRecord>(&record)) {
      job.view = made->view;
      const auto decided = static_cast<size_t>(made->view.first_step / steps_per_epoch);
      if (made->view.restores && job.epochs.size() > decided) job.epochs.resize(decided);
    }
    if (const auto* epoch = std::get_if<EpochRecord>(&record)) {
      job.epochs.resize(static_cast<size_t>(epoch->done.epoch));
      job.epochs.push_back(*epoch);
    }
    if (const auto* checkpoint = std::get_if<CheckpointRecord>(&record)) {
      std::erase_if(job.checkpoints, [&](const CheckpointRecord& other) {
        return other.state.step >= checkpoint->state.step;
      });
      job.checkpoints.push_back(*checkpoint);
    }
    job.ended = std::holds_alternative<EndRecord>(record);
  }
  return job;
}

bool is_kept(int64_t step, const std::vector<EpochRecord>& epochs, int64_t steps_per_epoch) {
  if (epochs.empty()) return false;
  const EpochDecision& newest = epochs.back().decision;
  std::vector<int64_t> kept = newest.keep;
  if (newest.best) kept.push_back(*newest.best);
  return std::any_of(kept.begin(), kept.end(), [&](int64_t epoch) {
    const auto index = static_cast<size_t>(epoch);
    return index < epochs.size() && epochs[index].done.last_state(steps_per_epoch) == step;
  });
}

std::optional<StateRef> final_state(const std::vector<EpochRecord>& epochs,
                                    const std::vector<CheckpointRecord>& checkpoints,
                                    int64_t steps_per_epoch) {
  if (epochs.empty()) return std::nullopt;
  const EpochRecord& last = epochs.back();
  const auto best = static_cast<size_t>(last.decision.best.value_or(last.done.epoch));
  const int64_t step = epochs[std::min(best, epochs.size() - 1)].done.last_state(steps_per_epoch);
  for (const CheckpointRecord& checkpoint : checkpoints) {
    if (checkpoint.state.step == step) return checkpoint.state;
  }
  return std::nullopt;
}

std::vector<JobRecord> compacted(const RecoveredJob& job) {
  std::vector<JobRecord> records{RunRecord{job.recipe_sha256}};
  if (job.canary) records.push_back(*job.canary);
  if (job.view) records.push_back(ViewRecord{*job.view});
  for (const EpochRecord& epoch : job.epochs) records.push_back(epoch);
  for (const CheckpointRecord& checkpoint : job.checkpoints) records.push_back(checkpoint);
  if (job.ended) records.push_back(EndRecord{});
  return records;
}

}  // namespace lockstep
