#include "cuda/device_info.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "cuda/check.h"

namespace lockstep {

namespace {

Result<GpuInfo> gpu_info(int index) {
  cudaDeviceProp properties;
  LOCKSTEP_CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
  GpuInfo info;
  info.index = index;
  info.name = properties.name;
  info.compute_major = properties.major;
  info.compute_minor = properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  info.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  return info;
}

}  // namespace

Result<std::vector<GpuInfo>> list_gpus() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorNoDevice) return std::vector<GpuInfo>{};
  LOCKSTEP_RETURN_IF_ERROR(cuda_status(status, "cudaGetDeviceCount(&count)"));
  std::vector<GpuInfo> gpus;
  for (int index = 0; index < count; ++index) {
    LOCKSTEP_ASSIGN(GpuInfo info, gpu_info(index));
    gpus.push_back(std::move(info));
  }
  return gpus;
}

std::string describe_gpu(const GpuInfo& gpu) {
  return fmt::format("GPU {}: {}, compute {}.{}, {} multiprocessors, {:.1f} GiB", gpu.index,
                     gpu.name, gpu.compute_major, gpu.compute_minor, gpu.multiprocessors,
                     static_cast<double>(gpu.memory_bytes) / (1 << 30));
}

}  // namespace lockstep
