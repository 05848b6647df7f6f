#include "host/cpu/gather_plan.h"

#include <numeric>

#include "host/core/check.h"

namespace lockstep::cpu {
namespace {

// Fewer outputs than this in a row are not worth a segment of their own.
constexpr int64_t kShortest = 4;

class GatherPlanner {
 public:
  GatherPlanner(const IndexLists& lists, const std::vector<int64_t>& input_features)
      : lists_(lists) {
    LOCKSTEP_CHECK(std::accumulate(input_features.begin(), input_features.end(), int64_t{0}) ==
                   lists.inputs);
    resolve(input_features);
  }

  GatherPlan plan() {
    for (int64_t o = 0; o < lists_.outputs();) {
      const int64_t run = parallel_run(o);
      const int64_t terms = length(o);
      if (terms == 0) {
        plan_.segments.push_back({GatherKind::fill, o, run});
      } else if (run >= kShortest) {
        plan_.segments.push_back({is_copy(o) ? GatherKind::copy : GatherKind::parallel, o, run});
      } else {
        append_loose(o, run);
      }
      o += run;
    }
    return std::move(plan_);
  }

 private:
  static size_t at(int64_t i) { return static_cast<size_t>(i); }
  int64_t length(int64_t o) const { return lists_.begin[at(o + 1)] - lists_.begin[at(o)]; }
  bool is_copy(int64_t o) const { return length(o) == 1 && factor(lists_.begin[at(o)]) == 1; }
  float factor(int64_t k) const { return lists_.factor.empty() ? 1.0f : lists_.factor[at(k)]; }
  int32_t input(int64_t k) const { return plan_.inputs.empty() ? 0 : plan_.inputs[at(k)]; }

  void resolve(const std::vector<int64_t>& input_features) {
    plan_.indices = lists_.index;
    if (input_features.size() != 1) plan_.inputs.resize(lists_.index.size());
    for (size_t k = 0; k < lists_.index.size(); ++k) {
      LOCKSTEP_CHECK(lists_.index[k] >= 0 && lists_.index[k] < lists_.inputs);
      if (plan_.inputs.empty()) continue;
      int64_t index = lists_.index[k];
      size_t input = 0;
      while (index >= input_features[input]) index -= input_features[input++];
      plan_.inputs[k] = static_cast<int32_t>(input);
      plan_.indices[k] = static_cast<int32_t>(index);
    }
  }

  // Whether the list of o is that of `first`, shifted by o - first.
  bool is_parallel(int64_t first, int64_t o) const {
    if (length(o) != length(first)) return false;
    for (int64_t i = 0; i < length(o); ++i) {
      const int64_t a = lists_.begin[at(first)] + i;
      const int64_t b = lists_.begin[at(o)] + i;
      const bool same = input(a) == input(b) && factor(a) == factor(b) &&
                        plan_.indices[at(b)] == plan_.indices[at(a)] + (o - first);
      if (!same) return false;
    }
    return true;
  }

  int64_t parallel_run(int64_t first) const {
    int64_t o = first + 1;
    while (o < lists_.outputs() && is_parallel(first, o)) ++o;
    return o - first;
  }

  // Joins the segment before where it is of the same kind.
  void append_loose(int64_t o, int64_t count) {
    const GatherKind kind = is_copy(o) ? GatherKind::single : GatherKind::lists;
    if (!plan_.segments.empty() && plan_.segments.back().kind == kind) {
      plan_.segments.back().count += count;
    } else {
      plan_.segments.push_back({kind, o, count});
    }
  }

  const IndexLists& lists_;
  GatherPlan plan_;
};

}  // namespace

GatherPlan make_gather_plan(const IndexLists& lists, const std::vector<int64_t>& input_features) {
  return GatherPlanner(lists, input_features).plan();
}

}  // namespace lockstep::cpu
