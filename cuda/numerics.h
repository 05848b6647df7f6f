// What the vendors' libraries may do to the factors of products; sums are float32 always.
#pragma once

#include <string>
#include <string_view>

#include "host/core/result.h"
#include "host/core/suggest.h"

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

// Of the numerics "cuda-fp32", "cuda-tf32" or "cuda-bf16"; a usage error for any other.
inline Result<CudaMath> math_of(std::string_view numerics) {
  if (numerics == "cuda-fp32") return CudaMath::fp32;
  if (numerics == "cuda-tf32") return CudaMath::tf32;
  if (numerics == "cuda-bf16") return CudaMath::bf16;
  return usage_error(unknown_name_message("numerics", std::string(numerics),
                                          {"cuda-fp32", "cuda-tf32", "cuda-bf16"}));
}

}  // namespace lockstep
