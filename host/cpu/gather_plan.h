// Index lists cut into segments that a kernel can run through without looking at each element.
#pragma once

#include <vector>

#include "host/cpu/kernels.h"
#include "host/device/ops.h"

namespace lockstep::cpu {

struct GatherPlan {
  std::vector<GatherSegment> segments;  // all outputs, in order
  // Of each element of the lists; `inputs` is empty where there is one.
  std::vector<int32_t> inputs;
  std::vector<int32_t> indices;  // within the input
};

GatherPlan make_gather_plan(const IndexLists& lists, const std::vector<int64_t>& input_features);

}  // namespace lockstep::cpu
