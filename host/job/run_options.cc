#include "host/job/run_options.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>

namespace lockstep {
namespace {

constexpr int64_t kMaxNodes = 1024;
constexpr double kMaxSeconds = 365.0 * 24 * 3600;
constexpr int64_t kMaxKept = 1'000'000;
constexpr double kLeastLease = 0.5;  // nodes give a sign of life every 0.2 s
constexpr double kLongestLease = 3600;

// A number at the beginning of `text`, which then begins behind it.
template <class T>
std::optional<T> take_number(std::string_view* text) {
  T value{};
  const auto parsed = std::from_chars(text->data(), text->data() + text->size(), value);
  if (parsed.ec != std::errc()) return std::nullopt;
  text->remove_prefix(static_cast<size_t>(parsed.ptr - text->data()));
  return value;
}

}  // namespace

std::vector<OptionSpec> run_options() {
  using enum OptionType;
  return {{"nodes", text, "1", "N|MIN:MAX",
           "start with N and go on with any; or start and go on with MIN, up to MAX join"},
          {"checkpoint_every", text, "60s", "60s|500steps",
           "keep the state so that no more is computed again (0: at epochs' ends only)"},
          {"keep_checkpoints", integer, 3, "N", "checkpoints that are kept, the newest"},
          {"verify_every", integer, 1, "N", "compare the nodes' states every N steps (0: never)"},
          {"lease", number, 5.0, "S", "seconds without a sign of life until a node is given up"}};
}

Result<NodeCounts> parse_nodes(const std::string& text) {
  std::string_view rest = text;
  const auto malformed = [&] {
    return usage_error(fmt::format(
        "--nodes {}: must be a number such as 3, or a range MIN:MAX such as 2:4", text));
  };
  const auto first = take_number<int64_t>(&rest);
  if (!first) return malformed();
  int64_t last = *first;
  const bool is_range = rest.starts_with(':');
  if (is_range) {
    rest.remove_prefix(1);
    const auto number = take_number<int64_t>(&rest);
    if (!number) return malformed();
    last = *number;
  }
  if (!rest.empty()) return malformed();
  for (const int64_t number : {*first, last}) {
    if (number >= 1 && number <= kMaxNodes) continue;
    return usage_error(fmt::format("--nodes {}: must be between 1 and {}", text, kMaxNodes));
  }
  if (last < *first) {
    return usage_error(fmt::format("--nodes {}: MIN must not be above MAX", text));
  }
  const int start = static_cast<int>(*first);
  return NodeCounts{start, is_range ? start : 1, static_cast<int>(last)};
}

Status check_nodes(const NodeCounts& nodes, bool exact) {
  if (exact || nodes.most == 1) return {};
  return usage_error(
      fmt::format("--exact off: at most one node, not {}: what one node has added up in an order "
                  "of its own no other could compute again when it dies; leave --exact off out, or "
                  "use --nodes 1",
                  nodes.most));
}

Result<CheckpointInterval> parse_checkpoint_every(const std::string& text) {
  const auto malformed = [&] {
    return usage_error(
        fmt::format("--checkpoint-every {}: must be seconds such as 60s, steps such as 500steps, "
                    "or 0 for only at the ends of epochs",
                    text));
  };
  const std::string_view all = text;
  const size_t unit_begins = std::min(all.find_first_not_of("0123456789."), all.size());
  std::string_view number = all.substr(0, unit_begins);
  const std::string_view unit = all.substr(unit_begins);
  if (unit == "steps" || unit == "step") {
    const auto steps = take_number<int64_t>(&number);
    if (!steps || !number.empty() || *steps > kMaxSteps) return malformed();
    return CheckpointInterval{0, *steps};
  }
  const auto seconds = take_number<double>(&number);
  const bool is_time = unit.empty() || unit == "s";
  if (!seconds || !number.empty() || !is_time || *seconds > kMaxSeconds) return malformed();
  const auto ms = static_cast<int64_t>(*seconds * 1000);
  if (ms == 0 && *seconds > 0) return malformed();
  return CheckpointInterval{ms, 0};
}

Result<RunOptions> run_options_from(const nlohmann::json& values) {
  RunOptions options;
  LOCKSTEP_ASSIGN(options.nodes, parse_nodes(values.at("nodes")));
  LOCKSTEP_ASSIGN(options.checkpoint_every, parse_checkpoint_every(values.at("checkpoint_every")));
  const int64_t keep = values.at("keep_checkpoints");
  LOCKSTEP_RETURN_IF_ERROR(check_range("--keep-checkpoints", keep, 1, kMaxKept));
  options.keep_checkpoints = static_cast<int>(keep);
  options.verify_every = values.at("verify_every");
  LOCKSTEP_RETURN_IF_ERROR(check_range("--verify-every", options.verify_every, 0, kMaxSteps));
  const double lease = values.at("lease");
  if (!(lease >= kLeastLease && lease <= kLongestLease)) {
    return usage_error(fmt::format("--lease {}: must be between {} and {} seconds", lease,
                                   kLeastLease, kLongestLease));
  }
  options.lease_ms = static_cast<int>(lease * 1000);
  return options;
}

}  // namespace lockstep
