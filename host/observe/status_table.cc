#include "host/observe/status_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace lockstep {
namespace {

using Json = nlohmann::json;

// What nodes call themselves is not for the terminal to obey.
std::string printable(const Json& value) {
  std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < ' ' || c == 127; }, '?');
  return text;
}

// Of a coordinator that measures or predicts.
std::string batch_line(const Json& status) {
  return fmt::format("{}: {} of {} batches\n", printable(status_member(status, "task")),
                     status_member(status, "batches_done").dump(),
                     status_member(status, "batches").dump());
}

std::string job_lines(const Json& status) {
  if (status.contains("batches")) return batch_line(status);
  const Json job = status_member(status, "job");
  const std::string phase = status.value("phase", "");
  if (!job.is_object()) return fmt::format("{}\n", phase);
  return fmt::format(
      "{} on {}, {}, P = {}\n{}: epoch {} of {}, step {} of {} (term {}, view {})\n",
      printable(status_member(job, "model")), printable(status_member(job, "data")),
      printable(status_member(job, "numerics")), status_member(job, "partitions").dump(), phase,
      std::min(status.value("epoch", int64_t{0}) + 1, job.value("epochs", int64_t{1})),
      status_member(job, "epochs").dump(), status_member(status, "step").dump(),
      status_member(job, "steps").dump(), status_member(status, "term").dump(),
      status_member(status, "view").dump());
}

std::string progress_line(const Json& status) {
  std::vector<std::string> parts;
  for (const auto& [key, prefix] : {std::pair("metrics", ""), std::pair("validation", "val_")}) {
    const Json values = status_member(status, key);
    if (!values.is_object()) continue;
    // Loss first, as Keras does.
    for (const bool loss : {true, false}) {
      for (const auto& [name, value] : values.items()) {
        if ((name == "loss") != loss || !value.is_number()) continue;
        parts.push_back(fmt::format("{}{}: {:.4f}", prefix, name, value.get<double>()));
      }
    }
  }
  if (const Json rate = status_member(status, "samples_per_second"); rate.is_number()) {
    parts.push_back(fmt::format("{:.0f} samples/s", rate.get<double>()));
  }
  if (const Json step = status_member(status, "step_seconds"); step.is_number()) {
    parts.push_back(fmt::format("{:.1f} ms a step", step.get<double>() * 1e3));
  }
  return parts.empty() ? "" : fmt::format("{}\n", fmt::join(parts, " - "));
}

std::string checkpoint_line(const Json& status) {
  const Json age = status_member(status, "checkpoint_age_seconds");
  if (!age.is_number()) return "";
  return fmt::format("checkpoint: step {}, {:.0f} s ago\n",
                     status_member(status, "checkpoint").dump(), age.get<double>());
}

std::string member_table(const Json& status) {
  const Json members = status_member(status, "members");
  if (!members.is_array() || members.empty()) return "no node is in the view\n";
  const char* work = status.contains("batches") ? "batches" : "partitions";
  std::string text = fmt::format("{:<24} {:>10}  {:<12} {}\n", "node", "session", work, "address");
  for (const Json& member : members) {
    const Json range = status_member(member, work);
    std::string partitions = "spare";
    if (range.is_array() && range.size() == 2 && range[0] != range[1]) {
      partitions = fmt::format("{}..{}", range[0].get<int64_t>(), range[1].get<int64_t>() - 1);
    }
    text += fmt::format("{:<24} {:>10}  {:<12} {}\n", printable(status_member(member, "name")),
                        status_member(member, "session").dump(), partitions,
                        printable(status_member(member, "address")));
  }
  return text;
}

std::string recovery_lines(const Json& status) {
  const Json recoveries = status_member(status, "last_recoveries");
  if (!recoveries.is_array() || recoveries.empty()) return "";
  std::string text = "\nlast recoveries\n";
  for (const Json& each : recoveries) {
    text += fmt::format("  step {}: node '{}' ({}), {:.2f} s\n", status_member(each, "step").dump(),
                        printable(status_member(each, "node")),
                        printable(status_member(each, "why")), each.value("seconds", 0.0));
  }
  return text;
}

}  // namespace

Json status_member(const Json& object, const char* key) {
  return object.is_object() && object.contains(key) ? object.at(key) : Json();
}

std::string status_table(const Json& status) {
  return job_lines(status) + progress_line(status) + checkpoint_line(status) + "\n" +
         member_table(status) + recovery_lines(status);
}

}  // namespace lockstep
