// A Program for people: its ops as they run, and where their values lie.
#pragma once

#include <string>

#include "host/device/device.h"
#include "host/graph/graph.h"

namespace lockstep {

// A line an op: the values that it reads and computes, with shape, the place of each in the arena
// for `rows` rows and until which op it is needed; which parameters' gradients it finishes; what it
// costs for those rows.
std::string program_listing(const Graph& graph, const Device& device, int rows, int partitions);

}  // namespace lockstep
