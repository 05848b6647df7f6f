// The operands of a convolution or a dense layer as the vendor's library sees them: the float32
// values themselves or, in bf16, copies in the memory of the branch under way.
#pragma once

#include <array>

#include "cuda/gpu.h"

namespace lockstep::cuda {

enum class Operand { x, kernel, y };  // or their gradients

class Operands {
 public:
  // `counts`: elements of x, kernel and y. `gpu` outlives the result.
  Operands(Gpu* gpu, const std::array<int64_t, 3>& counts) : gpu_(gpu), counts_(counts) {}

  // A factor: `values`, or their rounded copy.
  Result<const void*> read(Operand operand, const float* values) const;
  // A result that shall be `values`: where the library writes it, and then the copy from there.
  Result<void*> write(Operand operand, float* values) const;
  Status finish(Operand operand, float* values) const;

 private:
  bool copies() const { return gpu_->math() == CudaMath::bf16; }
  Result<Bf16*> place(Operand operand) const;

  Gpu* gpu_;
  std::array<int64_t, 3> counts_;
};

}  // namespace lockstep::cuda
