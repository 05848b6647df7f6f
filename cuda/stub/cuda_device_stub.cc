// Stands in for the CUDA device in builds without CUDA.
#include "cuda/cuda_device.h"

namespace lockstep {

int cuda_device_count() { return 0; }

GpuMemory cuda_memory(int) { return {}; }

Status check_cuda_device(std::string_view) {
  return refused_error(
      "this build has no CUDA: build on a machine with the CUDA toolkit, or use --device cpu");
}

Result<std::unique_ptr<Device>> make_cuda_device(int, std::string_view numerics,
                                                 const CudaOptions&) {
  return check_cuda_device(numerics).error();
}

}  // namespace lockstep
