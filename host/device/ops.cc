#include "host/device/ops.h"

namespace lockstep {

IndexLists index_lists(const std::vector<std::vector<int32_t>>& of_outputs, int64_t inputs) {
  IndexLists lists;
  lists.inputs = inputs;
  lists.begin.push_back(0);
  for (const std::vector<int32_t>& list : of_outputs) {
    lists.index.insert(lists.index.end(), list.begin(), list.end());
    lists.begin.push_back(static_cast<int64_t>(lists.index.size()));
  }
  return lists;
}

IndexLists transposed(const IndexLists& lists) {
  IndexLists result;
  result.inputs = lists.outputs();
  result.begin.assign(static_cast<size_t>(lists.inputs) + 1, 0);
  for (const int32_t index : lists.index) ++result.begin[static_cast<size_t>(index) + 1];
  for (size_t i = 1; i < result.begin.size(); ++i) result.begin[i] += result.begin[i - 1];
  result.index.resize(lists.index.size());
  if (!lists.factor.empty()) result.factor.resize(lists.index.size());
  std::vector<int64_t> next(result.begin.begin(), result.begin.end() - 1);
  for (int64_t o = 0; o < lists.outputs(); ++o) {
    for (int64_t k = lists.begin[o]; k < lists.begin[o + 1]; ++k) {
      const int64_t at = next[static_cast<size_t>(lists.index[k])]++;
      result.index[static_cast<size_t>(at)] = static_cast<int32_t>(o);
      if (!lists.factor.empty()) result.factor[static_cast<size_t>(at)] = lists.factor[k];
    }
  }
  return result;
}

}  // namespace lockstep
