// What a graph costs to compute.
#pragma once

#include <cstdint>
#include <string>

#include "host/graph/graph.h"

namespace lockstep {

// Additions, multiplications and calls of functions for one row. A multiplication with an addition
// is two, a call of a function (exp, a random number) one; copies are none.
int64_t operations_of(const OpDesc& op);
int64_t operations_of(const Graph& graph);

// 1234567 -> "1.23 M"
std::string count_text(int64_t count);

}  // namespace lockstep
