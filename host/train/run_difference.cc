#include "host/train/run_difference.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "host/core/files.h"
#include "host/runtime/state_file.h"
#include "host/train/digest_file.h"
#include "host/train/kept_states.h"
#include "host/train/output_folder.h"

namespace lockstep {
namespace {

Result<std::vector<uint64_t>> digests_of(const std::string& run) {
  const std::string path = OutputFolder::digests_path(run);
  if (file_exists(path)) return read_digests(path);
  return Error{
      fmt::format("'{}' is missing: the run has done no step, or this is no output folder", path)};
}

void compare_digests(const std::vector<uint64_t>& left, const std::vector<uint64_t>& right,
                     RunDifference& difference) {
  difference.left_steps = std::ssize(left);
  difference.right_steps = std::ssize(right);
  for (size_t step = 0; step < std::min(left.size(), right.size()); ++step) {
    if (left[step] == 0 || right[step] == 0) continue;  // not known
    ++difference.compared_steps;
    if (left[step] == right[step]) continue;
    difference.step = static_cast<int64_t>(step);
    return;
  }
}

Status compare_states(FileSystem& files, const std::string& left, const std::string& right,
                      const std::pair<std::string, std::string>& states,
                      const std::vector<Parameter>& parameters, RunDifference& difference) {
  LOCKSTEP_ASSIGN(const std::string left_bytes, read_kept_state(files, left, states.first));
  LOCKSTEP_ASSIGN(const std::string right_bytes, read_kept_state(files, right, states.second));
  LOCKSTEP_ASSIGN(const StateView left_state, decode_state(left_bytes));
  LOCKSTEP_ASSIGN(const StateView right_state, decode_state(right_bytes));
  int64_t count = 0;
  for (const Parameter& parameter : parameters) count += parameter.count();
  if (left_state.header.parameters != count || right_state.header.parameters != count) return {};
  difference.layer = compare_weights(parameters, left_state.vectors[0], right_state.vectors[0]);
  difference.optimizer_only = !difference.layer && left_state.vectors != right_state.vectors;
  return {};
}

struct LargestDifference {
  int64_t count = 0;
  double value = 0;
};

LargestDifference largest_difference(const Parameter& parameter, std::string_view left,
                                     std::string_view right) {
  LargestDifference largest;
  for (int64_t i = parameter.offset; i < parameter.offset + parameter.count(); ++i) {
    float a = 0;
    float b = 0;
    std::memcpy(&a, left.data() + i * 4, 4);
    std::memcpy(&b, right.data() + i * 4, 4);
    if (std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b)) continue;
    ++largest.count;
    largest.value = std::max(largest.value, std::abs(static_cast<double>(a) - b));
  }
  return largest;
}

}  // namespace

std::optional<LayerDifference> compare_weights(const std::vector<Parameter>& parameters,
                                               std::string_view left, std::string_view right) {
  std::optional<LayerDifference> difference;
  for (const Parameter& parameter : parameters) {
    const LargestDifference here = largest_difference(parameter, left, right);
    if (here.count == 0) continue;
    if (!difference) difference.emplace().layer = parameter.layer;
    if (difference->layer == parameter.layer) {
      difference->weights += here.count;
      difference->largest = std::max(difference->largest, here.value);
    }
    if (difference->largest_layer.empty() || here.value > difference->largest_of_all) {
      difference->largest_layer = parameter.layer;
      difference->largest_of_all = here.value;
    }
  }
  return difference;
}

Result<RunDifference> compare_runs(FileSystem& files, const std::string& left,
                                   const std::string& right, const ParametersOf& parameters_of) {
  LOCKSTEP_ASSIGN(const auto left_json, read_job_json(left));
  LOCKSTEP_ASSIGN(const auto right_json, read_job_json(right));
  RunDifference difference;
  difference.recipe = recipe_differences(left_json, right_json);
  LOCKSTEP_ASSIGN(const auto left_digests, digests_of(left));
  LOCKSTEP_ASSIGN(const auto right_digests, digests_of(right));
  compare_digests(left_digests, right_digests, difference);
  if (difference.compared_steps == 0) {
    return Error{
        fmt::format("'{}' and '{}' have no step of which both know the digest", left, right)};
  }
  if (!difference.step) return difference;
  const auto left_states = kept_states(files, left);
  const auto right_states = kept_states(files, right);
  for (const auto& [step, state] : left_states) {
    if (!right_states.contains(step)) continue;
    if (step <= *difference.step) difference.common_before = step;
    if (step > *difference.step && !difference.common_after) difference.common_after = step;
  }
  if (!difference.common_after) return difference;
  LOCKSTEP_ASSIGN(const Job job, job_from_json(left_json));
  LOCKSTEP_ASSIGN(const auto parameters, parameters_of(job));
  LOCKSTEP_RETURN_IF_ERROR(compare_states(
      files, left, right,
      {left_states.at(*difference.common_after), right_states.at(*difference.common_after)},
      parameters, difference));
  return difference;
}

}  // namespace lockstep
