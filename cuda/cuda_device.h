// The CUDA device. A build without CUDA links a stub that says so.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "host/core/result.h"
#include "host/device/device.h"

namespace lockstep {

// The GPUs that this build can use on this machine; 0 without CUDA, driver or GPU.
int cuda_device_count();

// Of a GPU, in bytes: in use, by whomever, and in all. Zeros where it cannot be asked.
struct GpuMemory {
  int64_t used = 0;
  int64_t total = 0;
};
GpuMemory cuda_memory(int index);

// Refuses what make_cuda_device would for GPU 0, but takes nothing of it.
Status check_cuda_device(std::string_view numerics);

struct CudaOptions {
  bool replays = true;  // a Program's launches as CUDA graphs; else one by one, to compare
  int64_t bucket_bytes = int64_t{1} << 20;  // Device::bucket_bytes
};
// `numerics` is "cuda-fp32", "cuda-tf32" or "cuda-bf16".
Result<std::unique_ptr<Device>> make_cuda_device(int index, std::string_view numerics,
                                                 const CudaOptions& options = {});

}  // namespace lockstep
