// How every kernel is launched. Compiled by nvcc it is a plain launch; the same .cu file compiled
// as C++ calls what the includer provides as emulated_launch (tests/emulated_cuda).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/check.h"

namespace lockstep {

struct LaunchShape {
  unsigned blocks = 1;
  unsigned threads = 1;  // a block, one dimension
};

#ifndef __CUDACC__
template <class... Parameters, class... Arguments>
cudaError_t emulated_launch(void (*kernel)(Parameters...), LaunchShape shape, cudaStream_t stream,
                            Arguments... arguments);
#endif

// `name` stands in the message where the launch fails.
template <class... Parameters, class... Arguments>
Status launch(const char* name, void (*kernel)(Parameters...), LaunchShape shape,
              cudaStream_t stream, Arguments... arguments) {
#ifdef __CUDACC__
  kernel<<<shape.blocks, shape.threads, 0, stream>>>(static_cast<Parameters>(arguments)...);
  return cuda_status(cudaGetLastError(), name);
#else
  return cuda_status(emulated_launch(kernel, shape, stream, arguments...), name);
#endif
}

}  // namespace lockstep
