// Links between the GPUs of a node, by NCCL.
#pragma once

#include <memory>
#include <string>

#include "cuda/gpu.h"
#include "host/core/result.h"
#include "host/device/device_link.h"

namespace lockstep {

// An id that the GPUs of a node share; an error where there is no NCCL.
Result<std::string> nccl_link_id();

// Moves on the GPU's first stream. NCCL adds nothing here (its order of sums follows the topology)
// but in all_reduce, which jobs that are not exact use. Nothing waits for it without a deadline:
// communicators do not block, and after an error or a deadline the communicator is aborted, which
// ends what hangs on the stream. `gpu` outlives it.
Result<std::unique_ptr<DeviceLink>> make_nccl_link(Gpu& gpu, const LinkOptions& options);

}  // namespace lockstep
