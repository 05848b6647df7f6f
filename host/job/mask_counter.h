// Counts what the masks of a model's outputs let through.
#pragma once

#include <functional>

#include "host/data/batch_loader.h"
#include "host/job/job.h"

namespace lockstep {

// Of each masked output of the job, in their order, the entries of each row that count: by the
// ops of the job's own graph on this machine's CPU. May be called from any thread.
std::function<MaskCounts(const HostBatch& batch)> mask_counter(const Job& job);

}  // namespace lockstep
