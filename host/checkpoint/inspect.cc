#include "host/checkpoint/inspect.h"

#include <fmt/format.h>

#include <map>
#include <optional>
#include <set>
#include <vector>

#include "host/checkpoint/lineage.h"
#include "host/checkpoint/object_store.h"

namespace lockstep {
namespace {

std::string short_id(const std::string& id) { return id.substr(0, 12); }

std::string sizes(uint64_t bytes) {
  if (bytes < 1 << 20) return fmt::format("{} bytes", bytes);
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
}

class LineageText {
 public:
  LineageText(ObjectStore objects, DescribeSums describe_sums)
      : objects_(std::move(objects)), describe_sums_(std::move(describe_sums)) {}

  Result<std::string> run() {
    LOCKSTEP_RETURN_IF_ERROR(read_objects());
    std::string tree;
    for (const auto& [parent, children] : children_) {
      if (checkpoints_.contains(parent)) continue;
      for (const std::string& child : children) add_branch(child, 0, tree);
    }
    std::string text = fmt::format("{} checkpoints in '{}', {} of them whole\n",
                                   checkpoints_.size(), objects_.folder(), whole_);
    return text + tree + rest();
  }

  bool is_damaged() const { return !errors_.empty() || whole_ < checkpoints_.size(); }

 private:
  Status read_objects() {
    LOCKSTEP_ASSIGN(const auto ids, objects_.list());
    for (const std::string& id : ids) {
      const auto checkpoint = find_checkpoint(objects_, id);
      if (!checkpoint.ok()) {
        errors_.emplace(id, checkpoint.error().message);
      } else if (*checkpoint) {
        checkpoints_.emplace(id, **checkpoint);
      } else {
        others_.insert(id);
      }
    }
    std::set<std::pair<int64_t, std::string>> by_step;
    for (const auto& [id, checkpoint] : checkpoints_) by_step.emplace(checkpoint.step, id);
    for (const auto& [step, id] : by_step) children_[checkpoints_.at(id).parent].push_back(id);
    return {};
  }

  std::string condition(const Checkpoint& checkpoint) {
    named_.insert(checkpoint.state);
    if (errors_.contains(checkpoint.state)) return "STATE DAMAGED";
    if (!others_.contains(checkpoint.state)) return "STATE MISSING";
    ++whole_;
    return "whole";
  }

  // One line a checkpoint; only where the lineage forks do its children stand further in.
  void add_branch(std::string id, int depth, std::string& text) {
    while (true) {
      const Checkpoint& checkpoint = checkpoints_.at(id);
      const std::string& parent = checkpoint.parent;
      const bool gone = !parent.empty() && !checkpoints_.contains(parent);
      text += fmt::format("{:{}}step {}  epoch {}  {}  {}  state {}  {}  {}{}{}\n", "",
                          2 + 2 * depth, checkpoint.step, checkpoint.epoch,
                          describe_sums_ ? describe_sums_(checkpoint.accumulators) : "-",
                          short_id(id), short_id(checkpoint.state), sizes(checkpoint.state_bytes),
                          condition(checkpoint), checkpoint.is_final ? "  final" : "",
                          gone ? "  (parent " + short_id(parent) + " is gone)" : "");
      const auto children = children_.find(id);
      if (children == children_.end()) return;
      if (children->second.size() > 1) {
        for (const std::string& child : children->second) add_branch(child, depth + 1, text);
        return;
      }
      id = children->second.front();
    }
  }

  std::string rest() const {
    std::string text;
    for (const auto& [id, error] : errors_) text += fmt::format("damaged: {}\n", error);
    size_t count = 0;
    uint64_t bytes = 0;
    for (const std::string& id : others_) {
      if (named_.contains(id)) continue;
      const auto size = objects_.size_of(id);
      ++count;
      bytes += size.ok() ? size->value_or(0) : 0;
    }
    if (count > 0) {
      text += fmt::format("{} objects that no checkpoint names, {}\n", count, sizes(bytes));
    }
    return text;
  }

  ObjectStore objects_;
  const DescribeSums describe_sums_;
  std::map<std::string, Checkpoint> checkpoints_;
  std::map<std::string, std::vector<std::string>> children_;  // by parent, in order of steps
  std::set<std::string> others_;                              // sound objects, no manifests
  std::map<std::string, std::string> errors_;
  std::set<std::string> named_;
  size_t whole_ = 0;
};

std::string log_text(const LogContents& contents, const std::string& path,
                     const DescribeRecord& describe) {
  const auto& records = contents.records;
  std::string text = fmt::format("log '{}': {} records", path, records.size());
  if (!records.empty()) {
    text += fmt::format(", {} to {}, terms {} to {}", records.front().index, records.back().index,
                        records.front().term, records.back().term);
  }
  text += fmt::format(", {}\n", sizes(contents.whole_bytes));
  for (const LogRecord& record : records) {
    text += fmt::format("  {}  term {}  {}\n", record.index, record.term,
                        describe ? describe(record) : sizes(record.body.size()));
  }
  for (const Note& note : contents.notes) text += "note: " + note.text() + "\n";
  return text;
}

}  // namespace

Result<std::string> inspect_lineage(FileSystem& files, const std::string& folder,
                                    const DescribeRecord& describe,
                                    const DescribeSums& describe_sums, bool* damaged) {
  LineageText lineage(ObjectStore(files, folder + "/objects"), describe_sums);
  LOCKSTEP_ASSIGN(std::string text, lineage.run());
  bool is_damaged = lineage.is_damaged();
  const std::string path = folder + "/log";
  LOCKSTEP_ASSIGN(const auto size, files.size_of(path));
  const auto contents = size ? read_log(files, path) : LogContents{};
  if (!size) {
    text += fmt::format("no log at '{}'\n", path);
  } else if (contents.ok()) {
    text += log_text(*contents, path, describe);
  } else {
    is_damaged = true;
    text += "damaged: " + contents.error().message + "\n";
  }
  if (damaged != nullptr) *damaged = is_damaged;
  return text;
}

}  // namespace lockstep
