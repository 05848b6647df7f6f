// What the vendors' libraries may do to the factors of products; sums are float32 always.
#pragma once

#include <string_view>

#include "host/core/check.h"

namespace lockstep {

enum class CudaMath {
  fp32,  // products and sums in float32
  tf32,  // tensor cores may round the factors to TF32
  bf16,  // the factors are bfloat16: our own kernels round them
};

inline const char* math_name(CudaMath math) {
  switch (math) {
    case CudaMath::fp32:
      return "fp32";
    case CudaMath::tf32:
      return "tf32";
    case CudaMath::bf16:
      return "bf16";
  }
  return "";
}

// Of the numerics "cuda-fp32", "cuda-tf32" or "cuda-bf16".
inline CudaMath math_of(std::string_view numerics) {
  for (const CudaMath math : {CudaMath::fp32, CudaMath::tf32, CudaMath::bf16}) {
    if (numerics.substr(0, 5) == "cuda-" && numerics.substr(5) == math_name(math)) return math;
  }
  LOCKSTEP_CHECK(numerics == "cuda-fp32");
  return CudaMath::fp32;
}

}  // namespace lockstep
