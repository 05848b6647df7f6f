// Every CUDA call is checked and named with its expression.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdio>
#include <string>

#include "host/core/result.h"

namespace lockstep {

// "cudaStreamCreate(&stream): out of memory (cudaErrorMemoryAllocation)"
inline std::string cuda_failure_text(cudaError_t status, const char* expression) {
  return std::string(expression) + ": " + cudaGetErrorString(status) + " (" +
         cudaGetErrorName(status) + ")";
}

inline Status cuda_status(cudaError_t status, const char* expression) {
  if (status == cudaSuccess) return {};
  cudaGetLastError();  // else the next check of a launch would report this failure again
  return Error{cuda_failure_text(status, expression)};
}

// For destructors, which have nobody to tell.
inline void log_cuda_failure(cudaError_t status, const char* expression) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "lockstep: %s\n", cuda_failure_text(status, expression).c_str());
}

}  // namespace lockstep

// The Status of one call of the runtime API.
#define LOCKSTEP_CUDA_STATUS(expression) ::lockstep::cuda_status((expression), #expression)

// Returns the error of `expression`, if it fails, from the enclosing function.
#define LOCKSTEP_CUDA_CHECK(expression) LOCKSTEP_RETURN_IF_ERROR(LOCKSTEP_CUDA_STATUS(expression))
