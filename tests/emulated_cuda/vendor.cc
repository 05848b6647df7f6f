// The loaders that the device calls: these take the names of cuda/vendor.cc's, which is compiled
// with others (CMakeLists.txt).
#include "tests/emulated_cuda/vendor.h"

#include "tests/emulated_cuda/state.h"

namespace lockstep {

Result<std::shared_ptr<const CudnnApi>> load_cudnn(const char*) { return emulated::cudnn_api(); }

Result<std::shared_ptr<const CublasLtApi>> load_cublaslt(const char*) {
  return emulated::cublaslt_api();
}

Result<std::shared_ptr<const NcclApi>> load_nccl(const char*) {
  if (!emulated::state().options.has_nccl) return Error{"there is no NCCL"};
  return emulated::nccl_api();
}

}  // namespace lockstep
