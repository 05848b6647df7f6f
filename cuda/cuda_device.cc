#include "cuda/cuda_device.h"

#include <fmt/format.h>

#include "cuda/device_info.h"

namespace lockstep {

// No op is written yet, so no GPU can be used: `--device auto` takes the CPU.
int cuda_device_count() { return 0; }

Result<std::unique_ptr<Device>> make_cuda_device(int index, std::string_view numerics) {
  const auto gpus = list_gpus();
  if (!gpus.ok()) {
    return Error{fmt::format("no GPU can be used: {}; use --device cpu", gpus.error().message)};
  }
  if (index < 0 || index >= static_cast<int>(gpus->size())) {
    return Error{fmt::format("there is no GPU {}: this machine has {}; use --device cpu", index,
                             gpus->size())};
  }
  return Error{
      fmt::format("{} cannot train with numerics {}: this version has no ops for CUDA yet; "
                  "use --device cpu",
                  describe_gpu((*gpus)[static_cast<size_t>(index)]), numerics)};
}

}  // namespace lockstep
