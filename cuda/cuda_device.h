// The CUDA device. A build without CUDA links a stub that says so.
#pragma once

#include <memory>
#include <string_view>

#include "host/core/result.h"
#include "host/device/device.h"

namespace lockstep {

// Whether this build has CUDA and this machine a GPU that can be used.
int cuda_device_count();

Result<std::unique_ptr<Device>> make_cuda_device(int index, std::string_view numerics);

}  // namespace lockstep
