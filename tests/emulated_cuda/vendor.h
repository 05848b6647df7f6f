// The vendors' libraries of the emulated machine.
#pragma once

#include <memory>
#include <string>

#include "cuda/vendor.h"

namespace lockstep::emulated {

// All of it emulated: one algorithm, whose sums are in an order that depends on the shape and on
// the declared alignments, as a real one's may. For some shapes it works in two pieces with the
// workspace between them.
std::shared_ptr<const CublasLtApi> cublaslt_api();

// One that moves, and adds in an order that the seed chooses.
std::shared_ptr<const NcclApi> nccl_api();

// The real libcudnn for descriptors, heuristics and plans, for a described H100; convolutions run
// on the CPU from the plan's JSON. Where there is no libcudnn or no description: a table in which
// only handles work.
std::shared_ptr<const CudnnApi> cudnn_api();
// Why there are no convolutions here; "" if there are.
std::string missing_cudnn();

}  // namespace lockstep::emulated
