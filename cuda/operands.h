// The operands of a convolution or a dense layer as the vendor's library sees them: the float32
// values themselves or, in bf16, copies in the op's memory for work (Device::work_bytes).
#pragma once

#include <array>

#include "cuda/gpu.h"

namespace lockstep::cuda {

enum class Operand { x, kernel, y };  // or their gradients

using OperandCounts = std::array<int64_t, 3>;  // elements of x, kernel and y
OperandCounts operand_counts(const Conv2dOp& op, int rows);
OperandCounts operand_counts(const DenseOp& op, int rows);

// What the copies of an op's operands take in bf16; 0 where it has none.
int64_t operand_bytes(const OpDesc& op, int rows);

class Operands {
 public:
  Operands(CudaMath math, const OperandCounts& counts)
      : copies_(math == CudaMath::bf16), counts_(counts) {}

  // `work`: the op's memory. A factor: `values`, or their rounded copy.
  Result<const void*> read(Operand operand, const float* values, void* work,
                           cudaStream_t stream) const;
  // Where the library writes a result that shall be `values`; then finish() copies it there.
  void* write(Operand operand, float* values, void* work) const;
  Status finish(Operand operand, float* values, void* work, cudaStream_t stream) const;

 private:
  Bf16* place(Operand operand, void* work) const;

  bool copies_;
  OperandCounts counts_;
};

}  // namespace lockstep::cuda
