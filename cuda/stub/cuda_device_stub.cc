// Stands in for the CUDA device in builds without CUDA.
#include "cuda/cuda_device.h"

namespace lockstep {

int cuda_device_count() { return 0; }

Result<std::unique_ptr<Device>> make_cuda_device(int, std::string_view) {
  return Error{
      "this build has no CUDA: build on a machine with the CUDA toolkit, or use --device cpu"};
}

}  // namespace lockstep
