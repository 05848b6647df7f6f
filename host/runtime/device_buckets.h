// How gradients leave devices with memory of their own: flat ranges, the vector's end first, that
// some devices can share evenly.
#pragma once

#include <vector>

#include "host/device/device.h"
#include "host/graph/graph.h"

namespace lockstep {

// The flat vector, as long as buckets of `sharers` even shares make it.
FlatRange padded_flat(const Graph& graph, int sharers);
// Ends are rounded up, since what comes behind is final too. The last may stick out of the flat
// vector, and some may be empty.
std::vector<FlatRange> device_buckets(const Graph& graph, const Device& device, int sharers);

}  // namespace lockstep
